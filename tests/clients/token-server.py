#!/usr/bin/env python3
"""The token server of the test upstream: what Docker's registry expects behind `auth: token`.

    token-server.py ADDRESS:PORT KEY.pem CERTIFICATE.pem SERVICE USER:PASSWORD:ACTIONS...

ACTIONS is `pull` or `pull,push`. Nobody gets anything but what his entry says, and nobody without a password gets anything: the token
is given all the same, with no access in it, as the real ones do. Tokens live one minute.
"""

import base64
import json
import subprocess
import sys
import time
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

LIFETIME = 60


def main():
    address, key, certificate, service, *users = sys.argv[1:]
    host, port = address.rsplit(":", 1)
    server = ThreadingHTTPServer((host, int(port)), Handler)
    server.key, server.service = key, service
    server.x5c = "".join(line.strip() for line in open(certificate, encoding="ascii") if not line.startswith("-----"))
    server.users = {name: (password, set(actions.split(","))) for name, password, actions in (user.split(":") for user in users)}
    server.serve_forever()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        url = urlsplit(self.path)
        scheme, _, encoded = self.headers.get("Authorization", "").partition(" ")
        name, password = "", ""
        if scheme.lower() == "basic":
            name, _, password = base64.b64decode(encoded).decode().partition(":")
        self.give_token(parse_qs(url.query), name, password)

    def do_POST(self):
        form = parse_qs(self.rfile.read(int(self.headers.get("Content-Length", 0))).decode())
        if form.get("grant_type") != ["password"]:
            self.answer(400, {"error": "unsupported_grant_type"})
        else:
            self.give_token(form, form.get("username", [""])[0], form.get("password", [""])[0])

    def give_token(self, asked, name, password):
        expected, allowed = self.server.users.get(name, ("", set()))
        if password != expected:
            self.answer(401, {"errors": [{"code": "UNAUTHORIZED", "message": f"wrong password for {name}"}]})
            return
        if asked.get("service") != [self.server.service]:
            self.answer(400, {"errors": [{"code": "UNSUPPORTED", "message": f"no such service: {asked.get('service')}"}]})
            return
        access = []
        for scope in " ".join(asked.get("scope", [])).split():
            kind, rest = scope.split(":", 1)
            repository, actions = rest.rsplit(":", 1)
            granted = sorted(set(actions.split(",")) & allowed) if kind == "repository" else []
            access.append({"type": kind, "name": repository, "actions": granted})
        token = self.sign(name, access)
        self.answer(200, {"token": token, "access_token": token, "expires_in": LIFETIME})

    def sign(self, subject, access):
        now = int(time.time())
        header = {"typ": "JWT", "alg": "RS256", "x5c": [self.server.x5c]}
        claims = {"iss": "test", "sub": subject, "aud": self.server.service, "jti": str(uuid.uuid4()), "access": access}
        claims |= {"iat": now, "nbf": now - 5, "exp": now + LIFETIME}
        signed = b".".join(encode(json.dumps(part).encode()) for part in (header, claims))
        openssl = ["openssl", "dgst", "-sha256", "-sign", self.server.key, "-binary"]
        signature = subprocess.run(openssl, input=signed, stdout=subprocess.PIPE, check=True).stdout
        return (signed + b"." + encode(signature)).decode()

    def answer(self, status, document):
        body = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def encode(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=")


if __name__ == "__main__":
    main()
