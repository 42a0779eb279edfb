"""Servers of the harness's own: one that counts and protects nothing, and an upstream that is after the browser."""

import hashlib
import http.client
import http.server
import json
import threading

IMAGE = "application/vnd.oci.image.manifest.v1+json"


def request(address, method, path, body=None, headers=None):
    connection = http.client.HTTPConnection(address, timeout=30)
    connection.request(method, path, body, headers or {})
    answer = connection.getresponse()
    answer.content = answer.read()
    return answer


def digest(content):
    return "sha256:" + hashlib.sha256(content).hexdigest()


class Quiet(http.server.BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass


class Canary(Quiet):
    """Counts who asks for `/hit`. Serves its pages, and below `/bare` those of the registry, without a header that protects."""

    hits = []
    pages = {}
    registry = ""

    def do_GET(self):
        if self.path.startswith("/hit/"):
            self.hits.append(self.path.removeprefix("/hit/"))
            kind, page = "text/javascript", b"document.title='EX'+'ECUTED'"
        elif self.path.startswith("/bare/"):
            kind, page = "text/html", request(self.registry, "GET", self.path.removeprefix("/bare")).content
        else:
            kind, page = self.pages.get(self.path, ("text/plain", b""))
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Access-Control-Allow-Origin", "*")
        self.end_headers()
        self.wfile.write(page)


class Hostile(Quiet):
    """An upstream that answers everything with a page, under its status; one without, with images that are pages."""

    page = b""
    status = None
    asked = 0

    def do_GET(self):
        type(self).asked += 1
        status, text, kind = self.status or 200, self.page, "text/html"
        if self.status is None and "/manifests/" in self.path:
            kind, text = IMAGE, self.image()
        elif self.status is None and self.path.endswith("/tags/list"):
            kind, text = "application/json", json.dumps({"name": "x", "tags": ["v1", self.page.decode()]}).encode()
        self.send_response(status, self.page.decode())
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(text)))
        self.send_header("Content-Disposition", "inline")
        self.send_header("Content-Security-Policy", "default-src * 'unsafe-inline'")
        self.send_header("Warning", '299 - "' + self.page.decode() + '"')
        self.send_header("Link", f"<{self.page.decode()}>; rel=next")
        if status == 401:
            self.send_header("WWW-Authenticate", f'Basic realm="{self.page.decode()}"')
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(text)

    do_HEAD = do_GET

    def image(self):
        page = self.page
        config = {"mediaType": "text/html", "digest": digest(page), "size": len(page)}
        document = {"schemaVersion": 2, "mediaType": IMAGE, "config": config, "layers": []}
        return json.dumps(document | {"annotations": {page.decode(): page.decode()}}).encode()


def serve(handler):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"127.0.0.1:{server.server_address[1]}"
