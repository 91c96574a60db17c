"""Makes the pictures of the documentation from the running software: `make screenshots` (eight minutes; chromium).

Each picture is made by itself and tried twice: `python docs/screenshots.py quality load-test` makes two of them.
Pages are taken with chromium, the terminal as SVG. Everything runs on free ports, below var/screenshots. Latencies are
those of the machine as it is: the rollouts' objective is 250 ms for that reason; the load test wants an idle machine.
"""

from __future__ import annotations

import io
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import yaml
from PIL import Image
from rich.console import Console
from rich.text import Text
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from commands.serve import prepare_missing
from local_seldon.ports import free_ports

ROOT = Path(__file__).parents[1]
PICTURES = ROOT / "docs" / "pictures"
WORK = ROOT / "var" / "screenshots"
PROGRAM = str(Path(sys.executable).with_name("churn-serving"))
COLUMNS, LINES = 118, 60
WIDTH = 1200
LARGEST_BYTES = 200_000
# Relative, as every command runs in ROOT: the commands that the pictures show name it.
STATE = ("--state", str((WORK / "state").relative_to(ROOT)))
LOCAL = ("--target", "local", *STATE)
STORE = f"sqlite:///{ROOT / 'var' / 'features.db'}"
# Steps of seconds. Drift only asks a person, and these two versions are the same model.
PLAN = {
    "step_defaults": {"min_duration_s": 12, "max_duration_s": 150, "min_requests": 200},
    "bake_s": 8, "interval_s": 2, "watch_held_s": 30, "evidence": "scrape",
    "gates": {"slo_ms": 250, "warm_up_s": 5, "caller_latency": None},
}  # fmt: skip
Browser = webdriver.Chrome


@contextmanager
def running(*command: str, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command of the project in the background, and end it."""
    with (WORK / "log").open("ab") as log:
        process = subprocess.Popen(
            [PROGRAM, *command], cwd=ROOT, stdout=log, stderr=log, env={**os.environ, **environment}
        )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def run(*command: str, limit_s: float, allowed: tuple[int, ...] = (0,)) -> None:
    """Run a command of the project to its end. Raises RuntimeError when it fails or takes longer."""
    try:
        done = subprocess.run(
            [PROGRAM, *command], cwd=ROOT, capture_output=True, text=True, timeout=limit_s, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise RuntimeError(f"{' '.join(command[:3])} took longer than {limit_s:g} s") from error
    if done.returncode not in allowed:
        raise RuntimeError(
            f"{' '.join(command[:3])} ended with {done.returncode}: {(done.stderr or done.stdout)[-400:]}"
        )


@contextmanager
def serving(**environment: str) -> Iterator[str]:
    """Serve version 1; yields its URL once it is ready."""
    http, grpc, metrics = map(str, free_ports(3))
    ports = {"MLSERVER_HTTP_PORT": http, "MLSERVER_GRPC_PORT": grpc, "MLSERVER_METRICS_PORT": metrics}
    url = f"http://127.0.0.1:{http}"
    with running("serve", **ports, **environment):
        wait_for(lambda: httpx.get(f"{url}/v2/health/ready", timeout=2).is_success, 90)
        yield url


def wait_for(ask: Callable[[], object], limit_s: float) -> None:
    """Ask until the answer is true. Raises RuntimeError when that takes longer."""
    deadline_s = time.monotonic() + limit_s
    while time.monotonic() < deadline_s:
        with suppress(httpx.HTTPError):
            if ask():
                return
        time.sleep(0.2)
    raise RuntimeError(f"no answer within {limit_s:g} s; see {WORK / 'log'}")


@contextmanager
def browser() -> Iterator[Browser]:
    """Open chromium without a window. Raises RuntimeError where it is not installed."""
    found = {name: shutil.which(name) for name in ("chromium", "chromedriver")}
    if not all(found.values()):
        raise RuntimeError("chromium is not installed; run: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = str(found["chromium"])
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    opened = webdriver.Chrome(options=options, service=Service(str(found["chromedriver"])))
    opened.set_page_load_timeout(60)
    try:
        yield opened
    finally:
        opened.quit()


def save(name: str, page: bytes, *, height: int | None = None) -> None:
    """Write a PNG of 256 colours, a third of chromium's size; height: the most that is kept, in pixels."""
    picture = Image.open(io.BytesIO(page)).convert("RGB")
    if height is not None and picture.height > height:
        picture = picture.crop((0, 0, picture.width, height))
    written = PICTURES / f"{name}.png"
    picture.quantize(256).save(written, optimize=True)
    if written.stat().st_size > LARGEST_BYTES:
        raise RuntimeError(f"{written.name} has {written.stat().st_size:,} bytes; allowed: {LARGEST_BYTES:,}")


def check_places(shown: str) -> None:
    """Raise RuntimeError where a picture would show a directory of this machine."""
    if str(ROOT) in shown:
        raise RuntimeError(f"it shows {ROOT}: give the commands relative paths")


def take(name: str, address: str, *, height: int) -> None:
    """Take a page as PNG, from its top to `height`."""
    with browser() as opened:
        opened.set_window_size(WIDTH, height)
        opened.get(address)
        time.sleep(1)  # fonts and charts are drawn
        check_places(opened.find_element(By.TAG_NAME, "body").text)
        save(name, opened.get_screenshot_as_png(), height=height)


def docs_page() -> None:
    """Take /docs, where its example request was sent and explained."""
    with serving(SERVING_FEATURE_STORE=STORE) as url, browser() as opened:
        opened.set_window_size(WIDTH, 1480)
        opened.get(f"{url}/docs")

        def find(selector: str) -> Any:
            wanted = f"#operations-predict-predict {selector}"
            return WebDriverWait(opened, 30).until(lambda page: page.find_element(By.CSS_SELECTOR, wanted))

        find(".opblock-summary-control").click()
        find(".try-out__btn").click()
        find("input[placeholder=explain]").send_keys("3")
        opened.execute_script(
            "arguments[0].style.cssText = 'height: 70px; min-height: 70px'", find("textarea.body-param__text")
        )
        find(".execute").click()
        status = find(".live-responses-table tbody .response-col_status")
        WebDriverWait(opened, 30).until(lambda _: status.text == "200")
        time.sleep(1)  # the operation opens in steps
        operation = opened.find_element(By.ID, "operations-predict-predict")
        opened.execute_script("arguments[0].scrollIntoView()", operation)
        save("docs", opened.get_screenshot_as_png())


def as_svg(shown: str, title: str) -> str:
    """Return a terminal's content as SVG, without the font of another site that Rich names."""
    check_places(shown)
    console = Console(record=True, width=COLUMNS, file=io.StringIO())
    console.print(Text.from_ansi(shown))
    drawn = console.export_svg(title=title)
    return re.sub(r"@font-face \{.*?\}", "", drawn, flags=re.DOTALL).replace("Fira Code, ", "")


def watched(*command: str, until: Callable[[str], bool], limit_s: float) -> str:
    """Run a command that redraws a whole terminal; return the first screen that is wanted.

    A screen begins where the cursor goes to the first cell. Raises RuntimeError when none is.
    """
    ours, theirs = pty.openpty()
    size = {"COLUMNS": str(COLUMNS), "LINES": str(LINES)}
    process = subprocess.Popen(
        [PROGRAM, *command], cwd=ROOT, stdout=theirs, stderr=theirs,
        env={**os.environ, **size, "TERM": "xterm-256color", "COLORTERM": "truecolor"},
    )  # fmt: skip
    os.close(theirs)
    deadline_s, shown = time.monotonic() + limit_s, b""
    try:
        with suppress(OSError):  # the other end is closed: the command has ended
            while time.monotonic() < deadline_s and (chunk := os.read(ours, 65_536)):
                shown += chunk
                _, *screens, _ = [b"", *shown.split(b"\x1b[H")]  # the last may be half of a screen
                screen = screens[-1].decode().replace("\r", "") if screens else ""
                if until(screen):
                    return "\n".join(line.rstrip() for line in screen.splitlines()).rstrip()
    finally:
        process.terminate()
        process.wait(30)
        os.close(ours)
    raise RuntimeError(f"{' '.join(command)} showed no such screen within {limit_s:g} s")


def has_rollout(*status: str) -> bool:
    """Whether a rollout has begun; `status --watch` ends at once where there is none."""
    done = subprocess.run([PROGRAM, *status, "-o", "json"], cwd=ROOT, capture_output=True, check=False, timeout=60)
    return done.stdout.startswith(b"{")


@contextmanager
def deployed() -> Iterator[None]:
    """Run version 1 behind Envoy, under load. Versions 2 and 3 are the same bundle."""
    shutil.rmtree(WORK / "state", ignore_errors=True)
    artifacts = [word for tag in (1, 2, 3) for word in ("--artifact", f"churn-serving:{tag}=var/bundle")]
    (port,) = free_ports(1)
    url = f"http://127.0.0.1:{port}/seldon/default/churn"
    up = ("local", "up", "seldon/base/seldondeployment.yaml", "--detach", "--timeout-s", "180", "--port", str(port))
    try:
        run(*up, *STATE, *artifacts, "--env", f"SERVING_FEATURE_STORE={STORE}", limit_s=200)
        with running("load-test", "--url", url, "--qps", "200", "--duration", "1500", "--no-plot"):
            yield
    finally:
        run("local", "down", "default/churn", *STATE, limit_s=60, allowed=(0, 4))


@contextmanager
def rollout(version: str, *more: str) -> Iterator[subprocess.Popen[bytes]]:
    """Roll a version out; its page is written below WORK."""
    plan = WORK / "rollout.yaml"
    plan.write_text(yaml.safe_dump(PLAN))
    shutil.rmtree(WORK / version, ignore_errors=True)
    options = ("--version", version, "--image", f"churn-serving:{version[1:]}", "--log", str(WORK / version), *more)
    with running("rollout", "run", "churn", *options, *LOCAL, "--config", str(plan)) as process:
        yield process


def rollout_page(version: str) -> str:
    """Return the address of a rollout's page."""
    return next((WORK / version).glob("*.html")).as_uri()


def good_release() -> None:
    """Take `rollout status --watch` in mid canary, and the page of a release that was promoted."""
    with deployed(), rollout("v2") as process:
        status = ("rollout", "status", "churn", *LOCAL)
        wait_for(lambda: has_rollout(*status), 60)
        shown = watched(
            *status, "--watch", until=lambda screen: "30 % v2" in screen and screen.count("pass") >= 3, limit_s=420
        )
        drawn = as_svg(shown, "churn-serving rollout status churn --watch")
        (PICTURES / "rollout-status.svg").write_text(drawn)
        if code := process.wait(300):
            raise RuntimeError(f"the good release ended with {code}; see {WORK / 'log'}")
    take("rollout-promoted", rollout_page("v2"), height=1180)


def bad_release() -> None:
    """Take the page of a release that was rolled back: its deadline passes before it answers, so it answers 504."""
    with deployed(), rollout("v3", "--env", "SERVING_DEADLINE_MS=0.01") as process:
        if (code := process.wait(240)) != 1:
            raise RuntimeError(f"the bad release ended with {code}, not 1; see {WORK / 'log'}")
    take("rollout-rolled-back", rollout_page("v3"), height=1180)


def evaluation() -> None:
    """Take the evaluation of the challenger beside the champion, on held-out rows."""
    run("evaluate", "models:/churn@challenger", "--dry-run", "--report", str(WORK / "evaluation"), limit_s=120)
    take("evaluation", next((WORK / "evaluation").rglob("*.html")).as_uri(), height=1180)


def quality() -> None:
    """Take the quality page of served predictions and a challenger's, beside labels that came late."""
    from handoff.dataset import read_dataset

    records, other = WORK / "records", WORK / "bundle-2"
    shutil.rmtree(records, ignore_errors=True)
    run("import", "models:/churn@challenger", "--output", str(other), limit_s=180)
    recorded = {"SERVING_RECORDS": records.as_uri(), "SERVING_RECORD_KEY": "plain", "SERVING_CHALLENGERS": str(other)}
    with serving(SERVING_FEATURE_STORE=STORE, **recorded) as url:
        load = ("load-test", "--url", url, "--qps", "150", "--duration", "30", "--no-plot")
        run(*load, limit_s=90, allowed=(0, 1))
    customers = read_dataset()
    now = datetime.now(UTC).isoformat()
    lines = [f"{key},{now},{label}" for key, label in zip(customers.keys, customers.labels, strict=True)]
    labels = WORK / "churned.csv"
    labels.write_text("\n".join(["customer_id,time,churn", *lines]) + "\n")
    output = ("--labels", str(labels), "--bundle", "var/bundle", "--output", str(WORK / "quality"))
    run("quality", "--records", str(records), *output, limit_s=180)
    take("quality", (WORK / "quality" / "quality.html").as_uri(), height=1180)


def load_test() -> None:
    """Keep the plot of a load test."""
    plot = WORK / "load-test.png"
    with serving(SERVING_FEATURE_STORE=STORE) as url:
        load = ("load-test", "--url", url, "--qps", "300", "--duration", "10", "--plot", str(plot))
        run(*load, limit_s=60, allowed=(0, 1))
    save("load-test", plot.read_bytes())


MAKERS: Mapping[str, Callable[[], None]] = {
    "docs": docs_page,
    "evaluation": evaluation,
    "quality": quality,
    "load-test": load_test,
    "good-release": good_release,
    "bad-release": bad_release,
}


def main(*wanted: str) -> int:
    """Make the pictures that are named, or all; return how many could not be made."""
    if unknown := set(wanted) - set(MAKERS):
        sys.exit(f"error: no picture is named {', '.join(sorted(unknown))}; allowed: {', '.join(MAKERS)}")
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # what was started is ended all the same
    PICTURES.mkdir(parents=True, exist_ok=True)
    WORK.mkdir(parents=True, exist_ok=True)
    os.environ["SERVING_FEATURE_STORE"] = STORE
    os.chdir(ROOT)
    prepare_missing(None, None)
    failed = []
    for name in wanted or MAKERS:
        for attempt in (1, 2):
            began_s = time.monotonic()
            try:
                MAKERS[name]()
            except Exception as error:
                print(f"{name}, attempt {attempt}: {error}", file=sys.stderr)
            else:
                print(f"{name}: made in {time.monotonic() - began_s:.0f} s")
                break
        else:
            failed.append(name)
    print(
        f"{len(wanted or MAKERS) - len(failed)} made in {PICTURES}"
        + (f"; not made: {', '.join(failed)}" if failed else "")
    )
    return len(failed)


if __name__ == "__main__":
    sys.exit(min(main(*sys.argv[1:]), 1))
