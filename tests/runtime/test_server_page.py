"""The page in a real browser: every kind of task, the keyboard, errors, and texts that look like markup."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from attar.runtime import server
from attar.runtime.model import Model
from attar.runtime.tasks.base import jsonable
from tests.runtime.browser import Page, browsing, program
from tests.runtime.listening import listening, protocols
from tests.runtime.serving import KINDS

pytestmark = [pytest.mark.slow, pytest.mark.skipif(program() is None, reason="no Chromium here")]
MARKUP = "The film 🎉 was <script>alert(1)</script><img src=x onerror=alert(2)> charming"
ODD = "<b onclick=alert(3)>&amp;"


@pytest.fixture(scope="module")
def address(models: Mapping[str, Model]) -> Iterator[str]:
    own = Model.__new__(Model)
    own.__dict__.update(models["tiny"].__dict__)
    with listening(server.create_app({**models, ODD: own}), protocols()["h11"]) as (host, port):
        yield f"http://{host}:{port}/"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with browsing(str(program()), tmp_path_factory.mktemp("profile")) as found:
        yield found


def answer(page: Page, kind: str, *texts: str) -> str:
    """The words of the answer to texts, sent from the last field by the keyboard."""
    page.until("models.length > 0")
    name = json.dumps(kind)
    page.script(f"at('model').value = {name}; at('model').dispatchEvent(new Event('change'))")
    fields = "[...document.querySelectorAll('textarea')]"
    assert page.script(f"{fields}.length") == len(texts)
    page.script(f"{fields}.forEach((field, i) => field.value = {json.dumps(texts)}[i])")
    page.script(f"{fields}.at(-1).focus()")
    page.press("Enter", control=True)
    page.until("!at('answer').hidden && !at('send').disabled")
    return str(page.script("at('answer').innerText"))


@pytest.mark.parametrize(("width", "dark"), [(1000, False), (360, True)])
def test_every_task_is_shown(page: Page, address: str, models: Mapping[str, Model], width: int, dark: bool) -> None:
    page.open(address, width, dark)
    for kind in ("tiny", *KINDS):
        texts = ("What was it?", MARKUP) if models[kind].task.pairs else (MARKUP,)
        shown = answer(page, kind, *texts)
        found: Any = jsonable(models[kind](texts if len(texts) > 1 else texts[0]))
        marks = page.script("[...document.querySelectorAll('mark')].map((m) => m.firstChild.textContent)")
        if kind == "tiny":
            assert shown.startswith(found["label"]) and f"{100 * found['score']:.1f} %" in shown
        if kind == "multi-label":
            assert shown.startswith(", ".join(found["labels"]) or "None")
        if kind == "regression":
            assert float(shown.split()[0]) == pytest.approx(found["value"], abs=1e-4)
        if kind == "token-classification":  # the emoji counts as one character
            assert marks == [entity["text"] for entity in found] and found[-1]["label"] in shown
        if kind == "question-answering":
            assert marks == [found["text"]]
        if kind == "embeddings":
            assert shown.startswith(f"{len(found['values'])} numbers")
        if kind == "multi-task":
            assert all(name in shown for name in found)
        assert page.script("document.documentElement.scrollWidth") <= width, kind
    colour = page.script("getComputedStyle(document.body).backgroundColor")
    assert (colour == "rgb(255, 255, 255)") is not dark


def test_markup_in_texts_and_names_is_shown_as_text(page: Page, address: str) -> None:
    page.open(address)
    answer(page, "token-classification", MARKUP)
    assert answer(page, ODD, MARKUP)
    assert page.script("document.querySelectorAll('main script, main img, main b').length") == 0
    events = {event["method"] for event in page.events}
    assert "Page.javascriptDialogOpening" not in events and "Runtime.exceptionThrown" not in events
    asked = [e["params"]["request"]["url"] for e in page.events if e["method"] == "Network.requestWillBeSent"]
    assert asked and all(url.startswith((address, "data:")) for url in asked)
    refused = page.script("new Promise((done) => { addEventListener('securitypolicyviolation', () => done(true));"
                          "const made = document.createElement('script'); made.textContent = 'window.ran = 1';"
                          "document.body.append(made); })")  # fmt: skip
    assert refused and page.script("window.ran") is None


def test_every_field_has_a_name_and_errors_are_told(page: Page, address: str) -> None:
    page.open(address)
    answer(page, "question-answering", "What was it?", MARKUP)
    tree = page.call("Accessibility.getFullAXTree")["nodes"]
    roles = ("textbox", "combobox", "button", "status")
    named = [(n["role"]["value"], n["name"]["value"]) for n in tree if n.get("role", {}).get("value") in roles]
    wanted = {("combobox", "Model"), ("textbox", "Question"), ("textbox", "Context"), ("button", "Answer"),
              ("status", "Answer")}  # fmt: skip
    assert wanted <= set(named) and all(name for _, name in named)
    page.script("at('model').replaceChildren(new Option('gone', 'gone')); at('form').requestSubmit()")
    page.until("document.querySelector('.error') !== null")
    assert page.script("document.querySelector('.error').innerText").startswith("404: there is no model of that name")


def test_the_key_is_asked_for(page: Page, models: Mapping[str, Model]) -> None:
    app = server.create_app(models["tiny"], server.Settings(api_key="s3cret"))
    with listening(app, protocols()["h11"]) as (host, port):
        page.open(f"http://{host}:{port}/")
        page.until("at('access').open")
        assert page.script("at('answer').innerText").startswith("401: ")
        page.script("at('key').value = 's3cret'; at('key').dispatchEvent(new Event('change'))")
        assert answer(page, "tiny", "a good film").startswith("positive")
