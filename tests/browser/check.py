"""Pushes pages, has an upstream that answers with pages, and opens all of it in a browser.

What runs changes the page's title and asks for `/hit` at a server that counts. The same pages without our headers, from a
server of this file, do run: else the browser would prove nothing.
"""

import concurrent.futures
import hashlib
import http.client
import http.server
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import urllib.parse

RUNS = "document.title=`EX`+`ECUTED`;fetch(`//HIT/hit`)"

# Each runs in a page of HTML or SVG, one way or another; written into JSON, a path, or a body of its own.
PAYLOADS = [
    "<script>RUN</script>",
    "<ScRiPt>RUN</sCrIpT>",
    "<script >RUN</script >",
    "<script\n>RUN</script>",
    "<script/x>RUN</script>",
    "<script type=module>RUN</script>",
    "<script src=//HIT/hit.js></script>",
    "<script src='data:text/javascript,RUN'></script>",
    "</script><script>RUN</script>",
    "</title><script>RUN</script>",
    "</textarea><script>RUN</script>",
    "</style><script>RUN</script>",
    "--><script>RUN</script>",
    "]]><script>RUN</script>",
    "<img src=x onerror=RUN>",
    "<img src=x onerror='RUN'>",
    "<img/src=x/onerror=RUN>",
    "<IMG SRC=x ONERROR=RUN>",
    "<image src=x onerror=RUN>",
    "<img src='//HIT/hit'>",
    "<svg onload=RUN>",
    "<svg/onload=RUN>",
    "<svg><script>RUN</script></svg>",
    "<svg><animate onbegin=RUN attributeName=x dur=1s>",
    "<svg><set onbegin=RUN attributename=x>",
    "<svg><a><animate attributeName=href values=javascript:RUN /></a></svg>",
    "<body onload=RUN>",
    "<body onpageshow=RUN>",
    "<iframe src='javascript:RUN'></iframe>",
    "<iframe srcdoc='<script>parent.document.title=1;RUN</script>'></iframe>",
    "<iframe onload=RUN></iframe>",
    "<iframe src='//HIT/hit'></iframe>",
    "<object data='data:text/html,<script>RUN</script>'></object>",
    "<object data='//HIT/hit'></object>",
    "<embed src='data:image/svg+xml,<svg xmlns=%22http://www.w3.org/2000/svg%22 onload=%22RUN%22/>'>",
    "<embed src='//HIT/hit'>",
    "<video><source onerror=RUN></video>",
    "<video src=x onerror=RUN></video>",
    "<audio src=x onerror=RUN></audio>",
    "<input autofocus onfocus=RUN>",
    "<select autofocus onfocus=RUN>",
    "<textarea autofocus onfocus=RUN>",
    "<button autofocus onfocus=RUN>x</button>",
    "<a autofocus tabindex=0 onfocus=RUN>x</a>",
    "<details open ontoggle=RUN>",
    "<marquee onstart=RUN>x</marquee>",
    "<style>@import '//HIT/hit.css';</style>",
    "<style>@keyframes x{}</style><p style='animation-name:x;animation-duration:1s' onanimationstart=RUN>x</p>",
    "<link rel=stylesheet href='//HIT/hit.css'>",
    "<link rel=stylesheet href=x onerror=RUN>",
    "<base href='//HIT/'><script src=hit.js></script>",
    "<meta http-equiv=refresh content='0;url=data:text/html,<script>RUN</script>'>",
    "<math><mtext><table><mglyph><style><!--</style><img title='--&gt;&lt;img src=x onerror=RUN&gt;'>",
    "<noscript><p title='</noscript><img src=x onerror=RUN>'>",
    "<template><script>RUN</script></template><img src=x onerror=RUN>",
    "<form><button formaction=javascript:RUN autofocus onfocus=RUN>x</button></form>",
    "{{constructor.constructor('RUN')()}}<img src=x onerror=RUN>",
    "\ufeff<script>RUN</script>",
]

# How long a page may take: a browser that was given a download waits for ever.
PATIENCE = 45

hits = []


class Canary(http.server.BaseHTTPRequestHandler):
    """Counts, and serves the pages as they are, without a header that protects."""

    pages = {}

    def do_GET(self):
        kind, page = self.pages.get(self.path, ("text/javascript", b""))
        if self.path.startswith("/hit"):
            hits.append(self.path)
            page = b"document.title='EX'+'ECUTED'"
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Access-Control-Allow-Origin", "*")
        self.end_headers()
        self.wfile.write(page)

    def log_message(self, *_):
        pass


class Hostile(http.server.BaseHTTPRequestHandler):
    """An upstream whose every answer is a page."""

    page = b""

    def do_GET(self):
        status = int(re.search(r"/s(\d+)/", self.path + "/s404/").group(1))
        self.send_response(status, self.page.decode())
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(self.page)))
        self.send_header("Content-Security-Policy", "default-src * 'unsafe-inline'")
        self.send_header("Warning", '299 - "' + self.page.decode() + '"')
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(self.page)

    do_HEAD = do_GET

    def log_message(self, *_):
        pass


def serve(handler):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"127.0.0.1:{server.server_address[1]}"


def request(address, method, path, body=None, headers=None):
    connection = http.client.HTTPConnection(address, timeout=30)
    connection.request(method, path, body, headers or {})
    answer = connection.getresponse()
    answer.read()
    return answer


def push_blob(address, content):
    digest = "sha256:" + hashlib.sha256(content).hexdigest()
    answer = request(address, "POST", f"/v2/images/app/blobs/uploads/?digest={digest}", content)
    assert answer.status == 201, answer.status
    return f"/v2/images/app/blobs/{digest}"


def push_manifest(address, tag, content, kind):
    answer = request(address, "PUT", f"/v2/images/app/manifests/{tag}", content, {"Content-Type": kind})
    assert answer.status == 201, (answer.status, kind)
    return f"/v2/images/app/manifests/{tag}"


def opened(url):
    """The page's document after its scripts had time, as the browser has it."""
    with tempfile.TemporaryDirectory(prefix="entrepot-browser.", ignore_cleanup_errors=True) as profile:
        command = [
            "chromium",
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--no-first-run",
            "--no-proxy-server",
            "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
            f"--user-data-dir={profile}",
            "--virtual-time-budget=1500",
            "--timeout=20000",
            "--dump-dom",
            url,
        ]
        # A group of its own, so that all of its processes end with it.
        browser = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True, text=True, errors="replace"
        )
        try:
            return browser.communicate(timeout=PATIENCE)[0]
        except subprocess.TimeoutExpired:
            os.killpg(browser.pid, signal.SIGKILL)
            browser.communicate()
            # What is offered as a download never becomes a page.
            return None


def start(upstream, directory):
    with open(os.path.join(directory, "repositories.yml"), "w", encoding="utf-8") as file:
        file.write(
            "server: { listen: '127.0.0.1:0' }\n"
            f"storage: {{ path: '{directory}/data', min_free: 0% }}\n"
            "repositories:\n  images: { type: local }\n"
            f"  hub: {{ type: remote, url: 'http://{upstream}', insecure: true }}\n"
        )
    server = subprocess.Popen(
        [os.environ["ENTREPOT_BIN"], "serve", "-c", file.name],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    for line in server.stdout:
        found = re.search(r"listens on http://(\S+)", line)
        if found:
            return server, found.group(1).rstrip("/")
    sys.exit("the server does not listen")


def collect(address, payloads):
    """Every address to open, with a word for it."""
    pages = []
    # As somebody's content, under types that a browser would run if it were let.
    kinds = ["text/html", "image/svg+xml", "application/xhtml+xml", "text/xml"]
    for number, payload in enumerate(payloads):
        document = json.dumps({"annotations": {"description": payload}}, ensure_ascii=False).replace('\\"', "'")
        pages.append((f"manifest {number}", push_manifest(address, f"p{number}", document.encode(), "text/html")))
    for number, kind in enumerate(kinds):
        document = json.dumps({"a": '<x xmlns="http://www.w3.org/1999/xhtml">' + payloads[0] + payloads[20] + "</x>"})
        pages.append((kind, push_manifest(address, f"k{number}", document.encode(), kind)))
    everything = "\n".join(payloads)
    pages.append(("blob", push_blob(address, f"<!doctype html><html>{everything}".encode())))
    svg = f'<svg xmlns="http://www.w3.org/2000/svg"><script>{RUNS}</script></svg>'.replace("HIT", "x")
    pages.append(("blob of SVG", push_blob(address, svg.encode())))
    # In what is answered about what was asked, by us and after an upstream.
    for number, payload in enumerate(payloads[::8]):
        quoted = urllib.parse.quote(payload, safe="")
        for path in [
            f"/{quoted}",
            f"/v2/{quoted}/manifests/x",
            f"/v2/images/app/manifests/{quoted}",
            f"/v2/images/app/tags/list?last={quoted}",
            f"/v2/?ns={quoted}",
            f"/token?scope={quoted}&service={quoted}",
            f"/api/v1/tags/history?image={quoted}",
        ]:
            pages.append((f"asked {number}", path))
    for status in [200, 302, 401, 403, 404, 429, 500]:
        pages.append((f"upstream {status}", f"/v2/hub/s{status}/manifests/x"))
        pages.append((f"upstream {status}", f"/v2/hub/s{status}/tags/list"))
    for path in ["/", "/v2/", "/v2/_catalog", "/v2/images/app/tags/list", "/metrics", "/livez", "/api/v1/openapi.json"]:
        pages.append(("ours", path))
    return pages


def main():
    canary = serve(Canary)
    payloads = [payload.replace("RUN", RUNS).replace("HIT", canary) for payload in PAYLOADS]
    Hostile.page = payloads[0].encode()
    for number, payload in enumerate(payloads):
        Canary.pages[f"/control/{number}"] = ("text/html", f"<!doctype html><html>{payload}".encode())
    passed = failed = 0
    with tempfile.TemporaryDirectory(prefix="entrepot-browser.") as directory:
        server, address = start(serve(Hostile), directory)
        try:
            pages = collect(address, payloads)
            with concurrent.futures.ThreadPoolExecutor(2) as pool:
                doms = pool.map(lambda page: opened(f"http://{address}{page[1]}"), pages)
                for (word, path), dom in zip(pages, doms):
                    headers = request(address, "GET", path).headers
                    policy = headers.get("Content-Security-Policy", "")
                    wrong = [
                        "it ran" * ("EXECUTED" in (dom or "")),
                        "no page" * (dom is None and "blob" not in word),
                        "no nosniff" * (headers.get("X-Content-Type-Options") != "nosniff"),
                        "no policy" * ("default-src 'none'" not in policy or "unsafe" in policy),
                    ]
                    wrong = [text for text in wrong if text]
                    passed, failed = passed + (not wrong), failed + bool(wrong)
                    if wrong:
                        print(f"FAILED {word} {path}: {', '.join(wrong)}\n{(dom or '')[:500]}")
            ours = list(hits)
            print(f"{len(pages)} addresses with {len(payloads)} payloads opened, {len(ours)} requests to elsewhere")
            passed, failed = passed + (not ours), failed + bool(ours)
            # Without the headers most of it runs, or this would prove nothing.
            with concurrent.futures.ThreadPoolExecutor(2) as pool:
                doms = list(pool.map(lambda path: opened(f"http://{canary}{path}"), list(Canary.pages)[::3]))
            ran = sum("EXECUTED" in (dom or "") for dom in doms)
            print(f"unprotected, {ran} of {len(doms)} run, with {len(hits) - len(ours)} requests to elsewhere")
            passed, failed = passed + (ran > len(doms) // 2), failed + (ran <= len(doms) // 2)
        finally:
            server.terminate()
            server.wait(timeout=60)
    print(f"\n{passed} passed, {failed} failed")
    return failed > 0


if __name__ == "__main__":
    sys.exit(main())
