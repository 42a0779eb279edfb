#!/usr/bin/env python3
"""Passes requests on to a registry, and breaks off each large blob in the middle, once.

usage: cutter.py LISTEN SERVER

Each line that it prints is a blob that was asked for: CUT or WHOLE, its path, and the range.
"""

import sys
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

LARGE = 1_000_000
HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length"}

server = sys.argv[2]
been_cut = set()


class Cutter(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Whoever tries TLS first is to see that this is none.
    default_request_version = "HTTP/1.1"

    def do_GET(self):
        connection = HTTPConnection(server, timeout=60)
        connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
        for name, value in self.headers.items():
            if name.lower() not in HOP_BY_HOP:
                connection.putheader(name, value)
        connection.endheaders()
        answer = connection.getresponse()
        body = answer.read()
        length = answer.headers.get("Content-Length", len(body)) if self.command == "HEAD" else len(body)
        self.send_response_only(answer.status, answer.reason)
        for name, value in answer.getheaders():
            if name.lower() not in HOP_BY_HOP:
                self.send_header(name, value)
        self.send_header("Content-Length", str(length))
        self.end_headers()
        if self.command == "HEAD":
            return
        is_blob = "/blobs/" in self.path
        is_cut = is_blob and len(body) > LARGE and self.path not in been_cut
        if is_blob:
            print("CUT" if is_cut else "WHOLE", self.path, self.headers.get("Range", ""), flush=True)
        if is_cut:
            been_cut.add(self.path)
            self.close_connection = True
            body = body[: len(body) // 2]
        self.wfile.write(body)

    do_HEAD = do_GET

    def log_message(self, *_):
        pass


address, port = sys.argv[1].rsplit(":", 1)
ThreadingHTTPServer((address, int(port)), Cutter).serve_forever()
