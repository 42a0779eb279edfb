"""One chromium for all pages, driven over its own pipe (`--remote-debugging-pipe`): starting it takes longer than a page."""

import concurrent.futures
import contextlib
import json
import os
import queue
import signal
import subprocess
import tempfile
import threading

# Nothing here takes this long unless it hangs.
PATIENCE = 30


class Browser:
    """Ends, with all of its processes, with the `with` that it was made by."""

    def __enter__(self):
        self.profile = tempfile.TemporaryDirectory(prefix="entrepot-browser.", ignore_cleanup_errors=True)
        to_read, ours_to_write = os.pipe()
        ours_to_read, to_write = os.pipe()

        def rename():
            # First out of the way of each other, then to the numbers that the browser wants.
            reads, writes = os.dup(to_read), os.dup(to_write)
            os.dup2(reads, 3)
            os.dup2(writes, 4)

        self.process = subprocess.Popen(
            [
                "chromium",
                "--headless",
                "--remote-debugging-pipe",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-dev-shm-usage",
                "--no-first-run",
                "--no-proxy-server",
                "--autoplay-policy=no-user-gesture-required",
                "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
                f"--user-data-dir={self.profile.name}",
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            preexec_fn=rename,
            pass_fds=(3, 4),
            start_new_session=True,
        )
        os.close(to_read)
        os.close(to_write)
        self.out = os.fdopen(ours_to_write, "wb", buffering=0)
        self.answers, self.events = {}, {}
        self.lock, self.last = threading.Lock(), 0
        threading.Thread(target=self.listen, args=(os.fdopen(ours_to_read, "rb"),), daemon=True).start()
        self.ask("Browser.setDownloadBehavior", {"behavior": "deny"})
        return self

    def __exit__(self, *_):
        self.out.close()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.profile.cleanup()

    def listen(self, pipe):
        rest = b""
        while some := pipe.read1(1 << 16):
            *messages, rest = (rest + some).split(b"\0")
            for message in map(json.loads, messages):
                if "id" in message:
                    self.answers.pop(message["id"]).set_result(message)
                elif message.get("sessionId") in self.events:
                    self.events[message["sessionId"]].put(message)

    def ask(self, method, parameters=None, session=None):
        """What it answers; an empty answer where it says that it cannot."""
        answer = concurrent.futures.Future()
        with self.lock:
            self.last += 1
            self.answers[self.last] = answer
            message = {"id": self.last, "method": method, "params": parameters or {}}
            message |= {"sessionId": session} if session else {}
            self.out.write(json.dumps(message).encode() + b"\0")
        return answer.result(timeout=PATIENCE).get("result", {})


class Tab:
    """A page of its own, which has the focus as if somebody looked at it."""

    def __init__(self, browser):
        self.browser = browser
        target = browser.ask("Target.createTarget", {"url": "about:blank"})["targetId"]
        self.session = browser.ask("Target.attachToTarget", {"targetId": target, "flatten": True})["sessionId"]
        browser.events[self.session] = self.events = queue.Queue()
        for method, parameters in [
            ("Page.enable", {}),
            ("Page.setLifecycleEventsEnabled", {"enabled": True}),
            ("Emulation.setFocusEmulationEnabled", {"enabled": True}),
        ]:
            browser.ask(method, parameters, self.session)

    def open(self, url):
        """The document, when nothing has moved on the network for half a second; or why there is none."""
        while not self.events.empty():
            self.events.get()
        went = self.browser.ask("Page.navigate", {"url": url}, self.session)
        if went.get("isDownload") or went.get("errorText") == "net::ERR_ABORTED":
            return "", "a download"
        if "errorText" in went or "loaderId" not in went:
            return "", went.get("errorText", "the browser did not go there")
        while True:
            try:
                event = self.events.get(timeout=PATIENCE)
            except queue.Empty:
                return "", "the page did not come to rest"
            told = event["params"]
            # A page may lead to another one: the one that comes to rest counts.
            if event["method"] == "Page.lifecycleEvent" and told["name"] == "networkIdle":
                break
        found = {"expression": "document.title + '\\n' + document.documentElement.outerHTML"}
        answer = self.browser.ask("Runtime.evaluate", found, self.session)
        return answer.get("result", {}).get("value", ""), "a page"


def open_all(browser, urls, tabs):
    """Each document and what became of it, in the order of the addresses, in so many tabs at once."""
    idle = queue.Queue()
    for _ in range(tabs):
        idle.put(Tab(browser))

    def opened(url):
        tab = idle.get()
        try:
            return tab.open(url)
        finally:
            idle.put(tab)

    with concurrent.futures.ThreadPoolExecutor(tabs) as pool:
        return list(pool.map(opened, urls))
