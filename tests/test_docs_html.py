"""What a reader without a network sees: the built pages, as files and in a browser."""

import importlib.util
import json
import os
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
HTML = ROOT / "docs" / "_build" / "html"
EXERCISES = sorted((ROOT / "docs" / "exercises").glob("*.md"))
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND", "--virtual-time-budget=20000",
)  # fmt: skip
PAGES = ("index", "three_problems", "paper_003", "notebooks/lessons/stability_regions")
built = pytest.mark.skipif(not HTML.is_dir(), reason="docs/_build/html has not been built")


class Loads(HTMLParser):
    """Addresses that a page loads by itself (a link that one has to click is none)."""

    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        if tag in ("script", "img", "iframe", "source", "video", "embed"):
            self.found.append(attrs.get("src"))
        if tag == "link" and {"stylesheet", "preload", "icon", "preconnect"} & set(
            (attrs.get("rel") or "").split()
        ):
            self.found.append(attrs.get("href"))


def remote(text):
    page = Loads()
    page.feed(text)
    return [a for a in page.found if a and re.match(r"(https?:)?//", a)]


def test_remote_sees_what_a_page_loads():
    text = '<a href="https://x.org"></a><script src="{}"></script><link rel=stylesheet href="{}">'
    assert remote(text.format("a.js", "a.css")) == []
    assert remote(text.format("https://x.org/a.js", "//x.org/a.css")) == [
        "https://x.org/a.js", "//x.org/a.css",
    ]  # fmt: skip


@pytest.mark.slow
@built
def test_no_page_loads_anything_from_another_host():
    pages = sorted(HTML.rglob("*.html"))
    assert len(pages) > 50
    assert {p.name: remote(p.read_text(encoding="utf-8")) for p in pages if
            remote(p.read_text(encoding="utf-8"))} == {}  # fmt: skip
    for style in HTML.rglob("*.css"):
        assert not re.search(r"(url\(|@import)\s*['\"]?(https?:)?//", style.read_text("utf-8"))


@pytest.mark.slow
@built
@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
@pytest.mark.parametrize("page", PAGES)
def test_formulas_are_drawn_without_a_network(page, tmp_path):
    done = subprocess.run(
        [CHROMIUM, *FLAGS, f"--user-data-dir={tmp_path}", "--dump-dom",
         (HTML / f"{page}.html").as_uri()],
        capture_output=True, text=True, timeout=180, env={**os.environ, "HOME": str(tmp_path)},
    )  # fmt: skip
    text = re.sub(r"<(script|style)\b.*?</\1>", "", done.stdout, flags=re.S)
    assert "</html>" in text
    assert r"\(" not in text
    assert r"\[" not in text
    if page != "notebooks/lessons/stability_regions":
        assert "<mjx-container" in text


PHONE = 390  # px
LOOK = r"""<!doctype html><html><body><pre id="found"></pre><script>
async function look(name) {
  const frame = document.createElement("iframe");
  frame.style = "width: %(width)dpx; height: 844px; border: 0";
  frame.src = "%(root)s/" + name;
  document.body.append(frame);
  await new Promise(done => { frame.onload = done; });
  const page = frame.contentDocument, jax = frame.contentWindow.MathJax;
  if (jax && jax.startup) await jax.startup.promise;
  const root = page.documentElement;
  const seen = { scroll: root.scrollWidth, width: root.clientWidth };
  const scrolls = e => frame.contentWindow.getComputedStyle(e).overflowX === "auto";
  for (const e of page.querySelectorAll("article *")) {  // the theme's column around it scrolls
    const right = Math.round(e.getBoundingClientRect().right);
    if (right <= seen.scroll) continue;
    let up = e;
    while (up.tagName !== "ARTICLE" && !scrolls(up)) up = up.parentElement;
    if (up.tagName === "ARTICLE") seen.scroll = right;
  }
  seen.drawn = page.querySelectorAll("mjx-container").length;
  page.querySelectorAll("script, style, pre, code").forEach(e => e.remove());
  seen.raw = /\\[(\[]/.test(page.body.textContent);
  frame.remove();
  return seen;
}
(async () => {
  const found = {}, left = %(pages)s;
  const lane = async () => {
    for (let name; (name = left.pop()); ) found[name] = await look(name);
  };
  await Promise.all(Array.from({ length: 12 }, lane));
  document.getElementById("found").textContent = JSON.stringify(found);
})();
</script></body></html>"""


@pytest.mark.slow
@built
@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
def test_no_page_scrolls_sideways_on_a_phone_or_shows_raw_formulas(tmp_path):
    pages = [p.relative_to(HTML).as_posix() for p in sorted(HTML.rglob("*.html"))
             if not {"_modules", "_static"} & set(p.parts)]  # fmt: skip
    assert len(pages) > 50
    file = tmp_path / "look.html"
    file.write_text(
        LOOK % {"width": PHONE, "root": HTML.as_uri(), "pages": json.dumps(pages)}, encoding="utf-8"
    )
    flags = [f for f in FLAGS if "virtual-time" not in f]
    done = subprocess.run(
        [CHROMIUM, *flags, "--virtual-time-budget=2000000", "--hide-scrollbars",
         "--allow-file-access-from-files",
         f"--user-data-dir={tmp_path / 'user'}", "--dump-dom", file.as_uri()],
        capture_output=True, text=True, timeout=300, env={**os.environ, "HOME": str(tmp_path)},
    )  # fmt: skip
    found = json.loads(re.search(r'<pre id="found">(.*?)</pre>', done.stdout, re.S)[1])
    assert set(found) == set(pages)
    assert {seen["width"] for seen in found.values()} == {PHONE}
    assert {k: seen["scroll"] for k, seen in found.items() if seen["scroll"] > PHONE} == {}
    assert [name for name, seen in found.items() if seen["raw"]] == []
    assert sum(seen["drawn"] > 0 for seen in found.values()) > 20  # so formulas were looked at


def _module(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
@pytest.mark.parametrize("exercise", EXERCISES, ids=lambda p: p.stem)
def test_code_of_the_solutions_runs(exercise):
    lesson = _module(ROOT / "demos" / "lessons" / f"{exercise.stem}.py")
    names = {**vars(lesson), "numbers": lesson.run()}
    blocks = re.findall(r"```python\n(.*?)```", exercise.read_text(encoding="utf-8"), re.S)
    assert blocks
    for block in blocks:
        exec(block, names)


def test_every_lesson_has_questions():
    lessons = {p.stem for p in (ROOT / "demos" / "lessons").glob("*.py")}
    assert {p.stem for p in EXERCISES} == lessons


def test_readme_counts_the_statements_of_the_recorded_runs():
    found = []
    for file in (ROOT / "demos" / "results").glob("*.json"):
        if not file.name.startswith("contractivity"):  # those are paper 003's
            claims = json.loads(file.read_text(encoding="utf-8"))["claims"]
            pairs = claims.items() if isinstance(claims, dict) else (
                (c["claim"], c["agrees"]) for c in claims)  # fmt: skip
            found += [agrees for claim, agrees in pairs if not claim.startswith("not in the paper")]
    text = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    assert f"{sum(found)} of {len(found)} statements agree" in text
