"""Pushes pages, has an upstream that answers with pages, and opens all of it in a browser.

That nothing runs proves something only if it could: the payloads by themselves, and the registry's own answers without
its headers, are opened the same way and have to be seen to run.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
import urllib.parse

from chromium import Browser, open_all
from payloads import PAYLOADS, written
from servers import IMAGE, Canary, Hostile, digest, request, serve

# Pages at once. Most of a page's time is waiting for nothing to happen.
TABS = 12
# Payloads that need a click, or what this browser does no more; they are tried on us all the same.
IDLE = {25, 45, 51, 52}
STATUSES = [200, 302, 400, 401, 403, 404, 429, 500, 503]


def push_blob(address, content):
    answer = request(address, "POST", f"/v2/images/app/blobs/uploads/?digest={digest(content)}", content)
    assert answer.status == 201, answer.status
    return f"/v2/images/app/blobs/{digest(content)}"


def push_manifest(address, reference, document, kind):
    content = json.dumps(document, ensure_ascii=False).replace('\\"', "'").encode()
    answer = request(address, "PUT", f"/v2/images/app/manifests/{reference}", content, {"Content-Type": kind})
    assert answer.status == 201, (answer.status, kind, answer.content)
    return f"/v2/images/app/manifests/{reference}"


def start(upstreams, directory):
    remotes = "".join(
        f"  hub{upstream.status or ''}: {{ type: remote, url: 'http://{serve(upstream)}', insecure: true }}\n"
        for upstream in upstreams
    )
    with open(os.path.join(directory, "repositories.yml"), "w", encoding="utf-8") as file:
        file.write(
            "server: { listen: '127.0.0.1:0' }\n"
            f"storage: {{ path: '{directory}/data', min_free: 0% }}\n"
            f"repositories:\n  images: {{ type: local }}\n{remotes}"
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


def pushed(address, payloads):
    """What somebody pushed: annotations, labels, types, and blobs that are pages."""
    subject = {"mediaType": "text/html", "digest": digest(b"subject"), "size": 7}
    for number, payload in enumerate(payloads):
        document = {"annotations": {payload: payload}, "artifactType": payload, "subject": subject}
        yield "annotation", push_manifest(address, f"p{number}", document, "text/html")
    yield "referrers", f"/v2/images/app/referrers/{subject['digest']}"
    everything = "\n".join(payloads)
    labels = json.dumps({"config": {"Labels": {payload: payload for payload in payloads}}}).encode()
    yield "blob: labels", push_blob(address, labels)
    for start_of_page in ["<!doctype html><html>", "<html><head><title>x</title>", "\ufeff<html>", "<!-- -->", ""]:
        yield "blob", push_blob(address, (start_of_page + everything).encode())
    within = "".join(payload for payload in payloads if payload.startswith(("<script>", "<svg")))
    page = f'<x xmlns="http://www.w3.org/1999/xhtml">{within}</x>'
    svg = f'<svg xmlns="http://www.w3.org/2000/svg">{payloads[0]}</svg>'
    yield "blob of SVG", push_blob(address, svg.encode())
    kinds = ["text/html", "image/svg+xml", "application/xhtml+xml", "text/xml", "text/javascript", "text/css", "application/pdf"]
    for number, kind in enumerate(kinds):
        yield kind, push_manifest(address, f"k{number}", {"a": page, "b": svg}, kind)


def asked(payloads):
    """What is told of a question that is a page: of names, tags, and all that is not one."""
    for payload in payloads:
        quoted = urllib.parse.quote(payload, safe="")
        yield "name", f"/v2/images/{quoted}/manifests/x"
    for payload in payloads[::8]:
        quoted = urllib.parse.quote(payload, safe="")
        yield "path", f"/{quoted}"
        yield "tag", f"/v2/images/app/manifests/{quoted}"
        yield "page of tags", f"/v2/images/app/tags/list?last={quoted}"
        yield "namespace", f"/v2/?ns={quoted}"
        yield "token", f"/token?scope={quoted}&service={quoted}"
        yield "history", f"/api/v1/tags/history?image={quoted}"


def ours(address, payloads):
    """Every address to open, with a word for it."""
    yield from pushed(address, payloads)
    yield from asked(payloads)
    for status in STATUSES:
        yield f"upstream {status}", f"/v2/hub{status}/app/manifests/x"
        yield f"upstream {status}", f"/v2/hub{status}/app/tags/list"
        yield f"upstream {status}", f"/v2/hub{status}/app/blobs/{digest(b'page')}"
    yield "upstream's annotation", "/v2/hub/app/manifests/x"
    yield "upstream's blob", f"/v2/hub/app/blobs/{digest(Hostile.page)}"
    yield "upstream's tags", "/v2/hub/app/tags/list"
    for path in ["/", "/v2/", "/v2/_catalog", "/v2/images/app/tags/list", "/metrics", "/livez", "/api/v1/openapi.json"]:
        yield "ours", path


def complaints(word, headers, document, became):
    """What is wrong with one page."""
    policy = headers.get("Content-Security-Policy", "")
    if "EXECUTED" in document:
        yield "it ran"
    if became not in ("a page", "a download"):
        yield became
    if headers.get("X-Content-Type-Options") != "nosniff":
        yield "types may be guessed"
    if "default-src 'none'" not in policy or "unsafe" in policy or "*" in policy:
        yield f"the policy is {policy!r}"
    if "blob" in word and headers.get("Content-Type") != "application/octet-stream":
        yield f"a blob's type is {headers.get('Content-Type')}"


def main():
    canary = serve(Canary)
    payloads = [written(number, "p", canary) for number in range(len(PAYLOADS))]
    assert len(payloads) >= 50
    Hostile.page = payloads[0].encode()
    results = []

    def result(right, text):
        results.append(right)
        if not right:
            print(f"FAILED {text}")

    upstreams = [type("Upstream", (Hostile,), {"status": status}) for status in [None, *STATUSES]]
    with tempfile.TemporaryDirectory(prefix="entrepot-browser.") as directory:
        server, address = start(upstreams, directory)
        try:
            with Browser() as browser:
                pages = list(ours(address, payloads))
                look(browser, address, pages, result)
                for upstream in upstreams:
                    result(upstream.asked, f"the upstream that answers {upstream.status} was not asked")
                prove(browser, canary, address, pages, result)
        finally:
            server.terminate()
            server.wait(timeout=60)
    print(f"\n{results.count(True)} passed, {results.count(False)} failed")
    return not all(results)


def look(browser, address, pages, result):
    """Opens what is ours: nothing of it runs, and nothing leads elsewhere."""
    opened = open_all(browser, [f"http://{address}{path}" for _, path in pages], TABS)
    for (word, path), (document, became) in zip(pages, opened):
        wrong = list(complaints(word, request(address, "GET", path).headers, document, became))
        result(not wrong, f"{word} {path}: {', '.join(wrong)}\n{document[:500]}")
    print(f"{len(pages)} addresses with {len(PAYLOADS)} payloads opened, {len(Canary.hits)} requests to elsewhere")
    result(not Canary.hits, f"the browser went elsewhere: {Canary.hits}")


def prove(browser, canary, address, pages, result):
    """The same, where it may run: what is not seen here to run, would not have been seen above either."""
    for number in range(len(PAYLOADS)):
        page = "<!doctype html><html>" + written(number, "c", canary)
        Canary.pages[f"/control/{number}"] = ("text/html", page.encode())
    opened = open_all(browser, [f"http://{canary}{path}" for path in Canary.pages], TABS)
    ran = {number for number, (document, _) in enumerate(opened) if "EXECUTED" in document or f"c{number}" in Canary.hits}
    print(f"unprotected, {len(ran)} of {len(PAYLOADS)} run; not {sorted(set(range(len(PAYLOADS))) - ran)}")
    for number, payload in enumerate(PAYLOADS):
        result(number in ran or number in IDLE, f"not seen to run without protection, {number}: {payload}")
    Canary.registry = address
    bare = [f"http://{canary}/bare{path}" for word, path in pages if word in ("annotation", "blob")][::3]
    opened = open_all(browser, bare, TABS)
    ran = sum("it ran" in complaints("annotation", {}, *one) for one in opened)
    print(f"without our headers, {ran} of {len(bare)} of the same answers run")
    result(ran > len(bare) // 3, "the registry's own answers do not run without its headers")


if __name__ == "__main__":
    sys.exit(main())
