"""The pages that operators live in, in a real browser: Prefect's form, run and artifacts; MLflow's runs and models.

Wants Debian's chromium. `PICTURES=FOLDER` keeps a picture of every page.
"""

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests import miniature
from tests.conftest import Miniature

CHROMIUM = shutil.which("chromium")
QUIET = ["disable-gpu", "disable-background-networking", "disable-component-update", "disable-sync", "no-first-run"]
LONG_MS = 30_000
RUN_MS = 600_000  # that a whole run may take

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed: apt-get install chromium"),
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A headless Chromium that asks nobody but us; root has no sandbox."""
    arguments = [f"--{name}" for name in (*QUIET, *(["no-sandbox"] if os.geteuid() == 0 else []))]
    with sync_playwright() as play:
        started = play.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield started
        started.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A fresh page; what its scripts throw fails the test."""
    opened = browser.new_page(viewport={"width": 1500, "height": 1000})
    opened.set_default_timeout(LONG_MS)
    expect.set_options(timeout=LONG_MS)
    yield opened
    opened.close()


def shoot(page: Page, name: str) -> None:
    """Keep a picture for those who look."""
    if folder := os.environ.get("PICTURES"):
        page.wait_for_timeout(2000)
        page.screenshot(path=Path(folder, f"{name}.png"))


def form(page: Page, ran: Miniature, deployment: str) -> None:
    """Open the form of a deployment, as one clicks there."""
    page.goto(ran.url("PREFECT"))
    page.get_by_role("link", name="Deployments").click()
    page.get_by_role("link", name=deployment, exact=True).first.click()
    page.get_by_role("button", name="Run", exact=True).click()
    page.get_by_text("Custom run").click()
    expect(page.get_by_text("a block of params.yaml")).to_be_visible()


def test_prefects_pages_have_nothing_to_sell(page: Page, ran: Miniature) -> None:
    page.goto(ran.url("PREFECT"))
    expect(page.get_by_text("Active Work Pools")).to_be_visible()
    shoot(page, "dashboard")
    assert page.get_by_text("Upgrade").count() == 0
    page.get_by_role("link", name="Concurrency").click()
    expect(page.get_by_text("gpu", exact=True)).to_be_visible()
    shoot(page, "concurrency")


def test_the_form_refuses_a_wrong_name_and_says_what_it_wants(page: Page, ran: Miniature) -> None:
    form(page, ran, "run")
    page.locator("textarea").first.fill("No Such!")
    page.get_by_role("button", name="Submit").click()
    expect(page.get_by_text(re.compile("does not match"))).to_be_visible()
    shoot(page, "refused")


@pytest.fixture
def dropped(ran: Miniature) -> Iterator[Miniature]:
    """Give new pictures to learn from, and take them away again."""
    incoming = ran.folder / "data/incoming/fashion"
    miniature.drop(incoming, 8, seed=11)
    yield ran
    for folder in [path for path in incoming.iterdir() if path.is_dir()]:
        shutil.rmtree(folder)
    ran.shell("make run")


def test_a_run_from_the_form_shows_its_stages_its_lines_and_leads_to_its_report(page: Page, dropped: Miniature) -> None:
    form(page, dropped, "run")
    shoot(page, "form")
    page.get_by_role("button", name="Submit").click()
    page.get_by_text("View run").click()
    expect(page.get_by_text("Running", exact=True).first).to_be_visible()
    expect(page.get_by_text(re.compile(r"2,008 files seen = 2,008 used"))).to_be_visible(timeout=RUN_MS)
    expect(page.get_by_text("Running", exact=True).first).to_be_visible()  # the lines come while it runs
    page.get_by_role("tab", name="Task Runs").click()
    expect(page.get_by_role("link", name="train@fashion")).to_be_visible(timeout=RUN_MS)
    shoot(page, "running")
    expect(page.get_by_text("Deployed", exact=True).first).to_be_visible(timeout=RUN_MS)
    shoot(page, "deployed")
    page.get_by_role("tab", name="Artifacts").click()
    expect(page.get_by_text("engines-fashion")).to_be_visible()
    shoot(page, "artifacts")
    page.get_by_text("report-fashion").click()
    page.locator("a[href*='/artifacts/artifact/']").first.click()
    page.get_by_role("link", name="The run's report").first.click()
    report = page.frame_locator("iframe").get_by_text("Run report: fashion")
    expect(report).to_be_visible()
    shoot(page, "report")


def test_mlflow_compares_two_engines(page: Page, ran: Miniature) -> None:
    runs_of(page, ran)
    rows = page.locator(".ag-pinned-left-cols-container .ag-row")
    rows.first.get_by_role("button").first.click()  # its engines
    for engine in ("onnxruntime-fp32", "onnxruntime-int8"):
        row = rows.filter(has=page.get_by_role("link", name=engine, exact=True)).first
        row.get_by_label(re.compile("toggle row selection")).check()
    page.get_by_role("button", name="Compare").click()
    expect(page.get_by_text("p50_ms").first).to_be_visible()
    shoot(page, "compared")


def runs_of(page: Page, ran: Miniature) -> None:
    """Open the pipeline's runs in MLflow, by the line that its run ended with."""
    (address,) = re.findall(r"^MLflow +(http\S+)$", ran.output, re.MULTILINE)
    page.goto(address)
    expect(page.get_by_text("matching runs")).to_be_visible()
    shoot(page, "runs")


def test_the_champion_leads_to_the_run_that_made_it(page: Page, ran: Miniature) -> None:
    runs_of(page, ran)
    page.get_by_role("link", name="Model registry").click()
    page.get_by_role("button", name="Try it now").click()  # MLflow greets whoever comes for the first time
    page.get_by_test_id("model-list-table").get_by_role("link", name="fashion", exact=True).click()
    champion = page.get_by_role("row").filter(has_text="champion")
    expect(champion).to_contain_text("accuracy")
    shoot(page, "registry")
    champion.get_by_role("link", name=re.compile("Version")).click()
    page.get_by_role("link", name=re.compile("fashion-")).first.click()
    expect(page.get_by_text("served_accuracy").first).to_be_visible()
    shoot(page, "champion")
