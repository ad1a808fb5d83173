"""A team's login, the whole way: a real OpenID Connect provider beside a dashboard that is told of it."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browsing import Server, free_port
from ui import login

USERS = {
    "ann": {"email": "ann@example.org", "email_verified": True},
    "dan": {"email": "Dan@Team.example.org"},
    "bob": {"email": "bob@elsewhere.example", "email_verified": True},
    "carla": {"email": "carla@team.example.org", "email_verified": False},
}
LINK = "/dose?circuit=language&ranking=ablation"
PATIENCE_MS = 60_000


@pytest.fixture(scope="module")
def provider(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a login provider that knows USERS and believes whoever picks one."""
    port = free_port()
    claims = [part for sub, user in USERS.items() for part in ("--user-claims", json.dumps({"sub": sub, **user}))]
    log = tmp_path_factory.mktemp("provider") / "log"
    with (
        log.open("w") as said,
        subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", "oidc_provider_mock", "--port", str(port), *claims],
            stdout=said,
            stderr=said,
        ) as process,
    ):
        yield f"http://localhost:{port}"
        process.terminate()


@pytest.fixture(scope="module")
def team(browser: Browser, provider: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A dashboard for a team, with the recorded results."""
    folder, port = tmp_path_factory.mktemp("team"), free_port()
    (folder / "secrets.toml").write_text(
        f"""
        [auth]
        redirect_uri = "http://localhost:{port}/oauth2callback"
        cookie_secret = "a long random text of this test"
        client_id = "pprobe"
        client_secret = "a secret of this test"
        server_metadata_url = "{provider}/.well-known/openid-configuration"

        [pprobe]
        allowed_emails = ["ann@example.org", "@team.example.org"]
        """,
        encoding="utf-8",
    )
    with Server(folder, port=port, options=(f"--secrets.files={folder / 'secrets.toml'}",)) as running:
        yield running
    assert "Traceback" not in running.log, running.log[-3000:]


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    context = browser.new_context(reduced_motion="reduce")
    context.set_default_timeout(PATIENCE_MS)
    expect.set_options(timeout=PATIENCE_MS)
    yield context.new_page()
    context.close()


def wait_for_the_note(page: Page, *, there: bool) -> None:
    """Until the browser has noted the link that it came with, or has forgotten it."""
    until = time.monotonic() + PATIENCE_MS / 1000
    while there != (login.WANTED in {cookie.get("name") for cookie in page.context.cookies()}):
        assert time.monotonic() < until
        page.wait_for_timeout(100)


def log_in(page: Page, team: Server, provider: str, who: str, address: str = LINK) -> None:
    """From the dashboard to the provider and back."""
    page.goto(f"http://localhost:{team.port}{address}")
    expect(page.get_by_text("Please log in")).to_be_visible()
    assert page.get_by_test_id("stVegaLiteChart").count() == 0
    assert page.get_by_text("neurons").count() == 0
    if address != "/":
        wait_for_the_note(page, there=True)
    page.locator("button:visible", has_text="Log in").click()
    page.wait_for_url(f"{provider}/**")
    page.locator("button", has_text=who).first.click()
    page.wait_for_url(f"http://localhost:{team.port}/**")


@pytest.mark.parametrize("who", ["ann", "dan"])
def test_a_member_lands_on_the_link_it_came_with_stays_in_and_can_leave(
    page: Page, team: Server, provider: str, who: str
) -> None:
    log_in(page, team, provider, who)
    expect(page.get_by_text(f"Logged in as {USERS[who]['email']}")).to_be_visible()
    expect(page.get_by_role("heading", name="What happens without its neurons?")).to_be_visible()
    assert "circuit=language" in page.url
    expect(page.get_by_text("Output language in mini-qwen3.")).to_be_visible()
    wait_for_the_note(page, there=False)
    page.reload()
    expect(page.get_by_text(f"Logged in as {USERS[who]['email']}")).to_be_visible()
    page.locator("button:visible", has_text="Log out").first.click()
    page.wait_for_url(f"{provider}/**")
    page.locator("button").first.click()
    expect(page.get_by_text("Please log in")).to_be_visible()
    page.reload()
    expect(page.get_by_text("Please log in")).to_be_visible()


@pytest.mark.parametrize("who", ["bob", "carla"])
def test_an_account_that_is_not_on_the_list_or_not_verified_stays_out(
    page: Page, team: Server, provider: str, who: str
) -> None:
    log_in(page, team, provider, who, "/")
    expect(page.get_by_text("This account may not come in")).to_be_visible()
    for path in ("/probe", "/runs", LINK):
        page.goto(f"http://localhost:{team.port}{path}")
        expect(page.get_by_text("This account may not come in")).to_be_visible()
        assert page.get_by_test_id("stVegaLiteChart").count() == 0
        assert page.get_by_test_id("stDataFrame").count() == 0
