"""A headless Chromium, driven over its debugging pipe: JSON closed by a zero byte, on descriptors 3
and 4 of the browser. Clicks and keys are real input events; every wait is on a condition."""
import base64
import json
import os
import select
import shutil
import subprocess
import tempfile
import time

PATIENCE = float(os.environ.get("MALMEND_PATIENCE", "50"))
NAMES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
BINARY = os.environ.get("MALMEND_CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)

KEYS = {"Enter": (13, "\r"), "Tab": (9, ""), "Escape": (27, ""), "Space": (32, " "),
        "ArrowLeft": (37, ""), "ArrowUp": (38, ""), "ArrowRight": (39, ""), "ArrowDown": (40, ""),
        "Home": (36, ""), "End": (35, ""), "Backspace": (8, "")}


class Browser:
    def __init__(self):
        self.profile = tempfile.TemporaryDirectory(prefix="malmend-browser-",
                                                   ignore_cleanup_errors=True)
        inward, outward = os.pipe(), os.pipe()

        def arrange():
            # Both ends first move out of the way: the numbers may be each other's.
            read, write = os.dup(inward[0]), os.dup(outward[1])
            os.dup2(read, 3)
            os.dup2(write, 4)

        command = [BINARY, "--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe",
                   "--disable-dev-shm-usage", "--disable-background-networking", "--hide-scrollbars",
                   "--no-first-run", "--lang=en-US", f"--user-data-dir={self.profile.name}",
                   "about:blank"]
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                        stderr=subprocess.DEVNULL, close_fds=False,
                                        preexec_fn=arrange)
        os.close(inward[0])
        os.close(outward[1])
        self.write, self.read = inward[1], outward[0]
        self.rest, self.last, self.answers, self.listeners = b"", 0, {}, {}

    def receive(self, timeout):
        if not select.select([self.read], [], [], timeout)[0]:
            return
        data = os.read(self.read, 1 << 20)
        if not data:
            raise AssertionError("the browser has ended")
        *texts, self.rest = (self.rest + data).split(b"\0")
        for message in map(json.loads, texts):
            if "id" in message:
                self.answers[message["id"]] = message
            else:
                listener = self.listeners.get(message.get("sessionId"))
                if listener:
                    listener(message["method"], message["params"])

    def send(self, method, params=None, session=None):
        self.last += 1
        number = self.last
        message = {"id": number, "method": method, "params": params or {}}
        if session:
            message["sessionId"] = session
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self.write, data):]
        until = time.monotonic() + PATIENCE
        while number not in self.answers:
            if time.monotonic() > until:
                raise AssertionError(f"the browser does not answer {method}")
            self.receive(0.5)
        answer = self.answers.pop(number)
        if "error" in answer:
            raise AssertionError(f"{method}: {answer['error']['message']}")
        return answer["result"]

    def close(self):
        try:
            self.send("Browser.close")
            self.process.wait(5)
        except (AssertionError, OSError, subprocess.TimeoutExpired):
            self.process.kill()
            self.process.wait()
        os.close(self.read)
        os.close(self.write)
        self.profile.cleanup()


class Page:
    """One tab. `faults` collects what a page without faults has none of: errors and warnings of the
    console, exceptions, violations of the content security policy."""

    def __init__(self, browser, width=1280, height=900):
        self.browser = browser
        self.context = browser.send("Target.createBrowserContext")["browserContextId"]
        target = browser.send("Target.createTarget",
                              {"url": "about:blank", "browserContextId": self.context})["targetId"]
        self.target = target
        self.session = browser.send("Target.attachToTarget",
                                    {"targetId": target, "flatten": True})["sessionId"]
        self.faults, self.requests = [], []
        browser.listeners[self.session] = self.hear
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.do(domain + ".enable")
        self.size(width, height)

    def hear(self, method, params):
        if method == "Runtime.exceptionThrown":
            details = params["exceptionDetails"]
            self.faults.append(details.get("exception", {}).get("description") or details["text"])
        elif method == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning"):
            self.faults.append(str(params["args"]))
        elif method == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
            # What the network answers is for the page to show; refused connections too.
            if params["entry"]["source"] != "network":
                self.faults.append(params["entry"]["text"])
        elif method == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])

    def do(self, method, **params):
        return self.browser.send(method, params, self.session)

    def size(self, width, height):
        self.do("Emulation.setDeviceMetricsOverride", width=width, height=height,
                deviceScaleFactor=1, mobile=False)

    def prefer(self, scheme):
        self.do("Emulation.setEmulatedMedia",
                features=[{"name": "prefers-color-scheme", "value": scheme}])

    def open(self, url):
        self.do("Page.navigate", url=url)
        self.wait("document.readyState === 'complete'")

    # ---- Asking ----

    def js(self, expression):
        result = self.do("Runtime.evaluate", expression=expression, returnByValue=True,
                         awaitPromise=True)
        if "exceptionDetails" in result:
            details = result["exceptionDetails"]
            raise AssertionError(details.get("exception", {}).get("description", details["text"]))
        return result["result"].get("value")

    def wait(self, expression, why=""):
        """Waits until an expression is true; its value."""
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until:
            try:
                value = self.js(f"((v) => v instanceof Node ? true : v)({expression})")
            except AssertionError as error:
                if "context" not in str(error) and "null" not in str(error):
                    raise
                value = None
            if value:
                return value
            self.browser.receive(0.03)
        raise AssertionError(f"never true: {why or expression}\n{self.text('body')[:1500]}\n{self.faults}")

    def text(self, selector):
        return self.js(f"document.querySelector({json.dumps(selector)})?.innerText ?? ''")

    def wait_text(self, selector, text):
        self.wait(f"(document.querySelector({json.dumps(selector)})?.innerText ?? '')"
                  f".includes({json.dumps(text)})", f"{selector} says {text!r}")

    # ---- Doing ----

    def place(self, selector):
        """The middle of what is seen of an element that is really on top there."""
        find = f"""(() => {{
            const node = {selector if selector.startswith('(') else f'document.querySelector({json.dumps(selector)})'};
            if (!node || node.disabled) return null;
            node.scrollIntoView({{block: 'center', inline: 'center', behavior: 'instant'}});
            const r = node.getBoundingClientRect();
            const x = r.left + r.width / 2, y = r.top + r.height / 2;
            const top = document.elementFromPoint(x, y);
            return r.width && top && (node.contains(top) || top.contains(node)) ? [x, y] : null;
        }})()"""
        return self.wait(find, f"{selector} can be clicked")

    def click(self, selector):
        x, y = self.place(selector)
        for kind in ("mouseMoved", "mousePressed", "mouseReleased"):
            self.do("Input.dispatchMouseEvent", type=kind, x=x, y=y, clickCount=1,
                    button="none" if kind == "mouseMoved" else "left")

    def button(self, text, inside="body"):
        """An expression for the button or link of this text."""
        return (f"([...document.querySelectorAll({json.dumps(inside + ' button, ' + inside + ' a')})]"
                f".find((b) => b.offsetParent && b.innerText.trim() === {json.dumps(text)}))")

    def key(self, name, shift=False, at=None):
        code, text = KEYS.get(name, (ord(name[0].upper()), name))
        key = " " if name == "Space" else name
        params = {"key": key, "code": name, "windowsVirtualKeyCode": code, "modifiers": 8 if shift else 0}
        if text and not (shift and name in KEYS):
            params["text"] = text
        if at:
            params["timestamp"] = at
        self.do("Input.dispatchKeyEvent", type="keyDown", **params)
        self.do("Input.dispatchKeyEvent", type="keyUp", key=key, code=name,
                windowsVirtualKeyCode=code)

    def keys(self, *names):
        """One soon after the other, however long it takes to say so."""
        now = time.time()
        for i, name in enumerate(names):
            self.key(name, at=now + i / 10)

    def type(self, text):
        self.do("Input.insertText", text=text)

    def fill(self, selector, text):
        self.click(selector)
        self.js(f"document.querySelector({json.dumps(selector)}).select?.()")
        self.type(text)

    def tab_to(self, condition, most=80):
        """Presses Tab until the focused element, called `it`, fulfils a condition."""
        for _ in range(most):
            if self.js(f"((it) => {condition})(document.activeElement)"):
                return
            self.key("Tab")
        raise AssertionError(f"Tab never leads to {condition}")

    def shot(self, path, full=False):
        data = self.do("Page.captureScreenshot", format="png", captureBeyondViewport=full)["data"]
        with open(path, "wb") as file:
            file.write(base64.b64decode(data))

    def close(self):
        self.browser.listeners.pop(self.session, None)
        self.browser.send("Target.closeTarget", {"targetId": self.target})
        self.browser.send("Target.disposeBrowserContext", {"browserContextId": self.context})
