#!/usr/bin/env python3
"""Serves an issuer's documents over HTTPS and writes down what it was asked: issuer.py PORT CERTIFICATE KEY FOLDER

The discovery document is made here; FOLDER/keys.json is read at each request, so that keys can be exchanged."""

import http.server
import json
import ssl
import sys

port, certificate, key, folder = int(sys.argv[1]), sys.argv[2], sys.argv[3], sys.argv[4]
issuer = f"https://localhost:{port}"


class Answers(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/.well-known/openid-configuration":
            body = json.dumps({"issuer": issuer, "jwks_uri": f"{issuer}/keys"}).encode()
        elif self.path == "/keys":
            with open(f"{folder}/keys.json", "rb") as file:
                body = file.read()
        else:
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


server = http.server.ThreadingHTTPServer(("127.0.0.1", port), Answers)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(certificate, key)
server.socket = context.wrap_socket(server.socket, server_side=True)
server.serve_forever()
