"""A person opens /docs in a browser without internet and runs "Try it out"."""

import json
import os
import shutil
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from tests.support.programs import GUARD_S
from tests.support.serving import Server

pytestmark = pytest.mark.integration

OPERATION = "#operations-predict-predict"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    browser, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if browser is None or driver is None:
        message = "chromium or its driver is not installed; run: apt-get install chromium chromium-driver"
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(message)
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for argument in (
        "--headless=new",
        "--no-sandbox",
        "--disable-dev-shm-usage",
        "--disable-background-networking",
        "--window-size=1200,1600",
        f"--user-data-dir={tmp_path_factory.mktemp('chromium')}",
        # Nothing but loopback has an address: a page that needs a CDN stays blank.
        "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
    ):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    opened = webdriver.Chrome(options=options, service=Service(driver))
    yield opened
    opened.quit()


@pytest.fixture(scope="module")
def page(browser: Any, server: Server) -> Any:
    browser.get(f"{server.rest}/docs")
    find(browser, f"{OPERATION} .opblock-summary-control").click()
    return browser


def find(browser: Any, selector: Any) -> Any:
    return WebDriverWait(browser, GUARD_S).until(lambda opened: opened.find_element(By.CSS_SELECTOR, selector))


def test_try_it_out_predicts_with_the_example_that_is_filled_in(page: Any, server: Server) -> None:
    find(page, f"{OPERATION} .try-out__btn").click()
    example = json.loads(find(page, f"{OPERATION} textarea.body-param__text").text)
    find(page, f"{OPERATION} .execute").click()
    status = find(page, f"{OPERATION} .live-responses-table tbody .response-col_status")
    WebDriverWait(page, GUARD_S).until(lambda _: status.text)
    shown = json.loads(find(page, f"{OPERATION} .live-responses-table .microlight").text)
    assert status.text == "200"
    assert shown == httpx.post(f"{server.rest}/predict", json=example).json()
    assert 0 < shown["churn_probability"] < 1


def test_page_lists_every_route_and_loads_only_from_the_server(page: Any, server: Server) -> None:
    paths = [element.get_attribute("data-path") for element in page.find_elements(By.CSS_SELECTOR, "[data-path]")]
    assert paths == list(httpx.get(f"{server.rest}/openapi.json").json()["paths"])
    loaded = page.execute_script("return performance.getEntriesByType('resource').map(entry => entry.name)")
    assert [address for address in loaded if not address.startswith((server.rest, "data:"))] == []
    assert f"{server.rest}/docs/swagger-ui-bundle.js" in loaded


def test_browser_reports_no_error_of_script_or_security_policy(page: Any) -> None:
    assert [entry["message"] for entry in page.get_log("browser") if entry["level"] == "SEVERE"] == []
