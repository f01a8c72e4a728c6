"""The pages in a real browser: nothing overflows, nothing fails, every text can be read, in light and dark."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from test_compare import make_tuned
from test_report import line, make_run

from pretune.report.compare import write_comparison
from pretune.report.report import write_report

webdriver: Any = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
LABELS = [f"{n}" for n in range(9)] + ["a_label_with_a_very_long_name_of_its_own", "<b>", "体育新闻"]
# Ratio of the luminance of a text to that of what lies behind it, as WCAG 2.2 defines it, of every text of the page.
CONTRAST = """
const parse = c => { const m = c.match(/[\\d.]+/g).map(Number); return [m[0], m[1], m[2], m.length > 3 ? m[3] : 1]; };
const over = (a, b) => [0, 1, 2].map(i => a[i] * a[3] + b[i] * (1 - a[3])).concat([1]);
const behind = e => { const layers = [];
  for (; e; e = e.parentElement) layers.push(parse(getComputedStyle(e).backgroundColor));
  return layers.reverse().reduce((below, layer) => over(layer, below), [255, 255, 255, 1]); };
const linear = v => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
const light = c => 0.2126 * linear(c[0]) + 0.7152 * linear(c[1]) + 0.0722 * linear(c[2]);
const low = [], walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT); let seen = 0;
while (walker.nextNode()) { const text = walker.currentNode.textContent.trim(), e = walker.currentNode.parentElement;
  if (!text || e.closest("script,style,desc,metadata,title") || !e.getClientRects().length) continue;
  const style = getComputedStyle(e), back = behind(e);
  const front = over(parse(e instanceof SVGElement ? style.fill : style.color), back);
  const [dark, bright] = [light(front), light(back)].sort((a, b) => a - b), ratio = (bright + 0.05) / (dark + 0.05);
  seen += 1; if (ratio < 4.5) low.push([text.slice(0, 40), Math.round(ratio * 100) / 100]); }
return [seen, low];
"""
# What reaches beyond the window; a card whose table is wide scrolls by itself.
OVERFLOW = """
const wide = [...document.querySelectorAll("main *")].filter(e => e.getClientRects().length && !e.closest("svg")
  && (e.getBoundingClientRect().right > innerWidth + 1 && !e.closest(".card table")
    || e.matches("th, td") && e.scrollWidth > e.clientWidth + 1
    || e.matches("table:not(.matrix) tbody th") && e.clientWidth < 60  // a column that is a few letters wide
    || e.matches(".matrix th") && e.clientHeight > 120));
const root = document.documentElement;
return [root.scrollWidth - root.clientWidth, wide.map(e => e.tagName + "." + e.className)];
"""
# Texts of a chart that lie over each other.
OVERLAP = """
const out = [];
for (const chart of document.querySelectorAll("svg")) {
  const texts = [...chart.querySelectorAll("text")].filter(e => e.getClientRects().length && e.textContent.trim());
  const boxes = texts.map(e => [e, e.getBoundingClientRect()]);
  boxes.forEach(([a, p], n) => boxes.slice(n + 1).forEach(([b, q]) => {
    const wide = Math.min(p.right, q.right) - Math.max(p.left, q.left);
    const high = Math.min(p.bottom, q.bottom) - Math.max(p.top, q.top);
    if (wide > 1 && high > 3) out.push([chart.getAttribute("aria-label"), a.textContent, b.textContent]); }));
}
return out;
"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A headless Chromium of the system; the test is skipped where there is none."""
    binary = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    driver = shutil.which("chromedriver")
    if binary is None or driver is None:
        pytest.skip("no chromium with chromedriver here; apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for flag in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    opened = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield opened
    opened.quit()


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A page of a classifier, one of an unfinished pretraining, one that compares three runs."""
    root = tmp_path_factory.mktemp("pages")
    word = "Donaudampfschifffahrtsgesellschaftskapitänsmütze" * 3
    settings = {"optimizer.lr": 1e-3, "model.init": f"/a/{word}/model"}
    mistake = {
        "text": f"{word} <script>",
        "label": "0",
        "prediction": "<b>",
        "probability": 0.91,
        "origin": "dev.csv:7",
    }
    answers = {
        "step": 20,
        "examples": 300,
        "of": 300,
        "scores": {"accuracy": 0.75},
        "labels": LABELS,
        "confusion": [[(n * m) % 7 for m in range(len(LABELS))] for n in range(len(LABELS))],
        "mistakes": [mistake] * 3,
        "mistake_count": 75,
        "baselines": {"accuracy": {"majority": 0.5, "probe": 0.625}},
        "unknown": "3 of 70 tokens of the validation texts are unknown to the tokenizer",
    }
    stats = {"train": {"examples": 900, "examples_cut": 4}, "windows": {f"pairs:{word}": {"samples": 3}}}
    tuned = make_tuned(root / "tuned", 0.75, settings, warnings=["the run has 28 steps, too few to learn"])
    (tuned / "validation.json").write_text(json.dumps(answers), encoding="utf-8")
    (tuned / "data_stats.json").write_text(json.dumps(stats), encoding="utf-8")
    rows = [line(step) for step in range(1, 60)] + [{"step": 59, "eval/loss": 3.9, "eval/loss/mlm": 3.2}]
    facts = {"began": "2026-11-22", "unigram_entropy": 3.4, "token_terms": ["mlm"], "abilities": {"mlm": "fill"}}
    bert = make_run(root / word, rows, run=facts, samples=[{"prompt": f"{word} [MASK]", "output": "“a” 0.41"}])
    (bert / "recipe.toml").write_text("[objective.mlm]\n[budget]\nsteps = 1000\n")
    others = [make_tuned(root / f"{word}{n}", 0.5 + n / 10, {"optimizer.lr": n}) for n in range(2)]
    return [write_report(tuned), write_report(bert), write_comparison([tuned, *others], root / "comparison.html")]


@pytest.mark.parametrize("width", [400, 1200])
@pytest.mark.parametrize("mode", ["light", "dark"])
def test_pages_are_readable(browser: Any, pages: list[Path], width: int, mode: str) -> None:
    window = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    scheme = {"features": [{"name": "prefers-color-scheme", "value": mode}]}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", window)
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", scheme)
    for page in pages:
        browser.get(page.as_uri())
        assert browser.execute_script("return innerWidth") == width
        browser.execute_script("document.querySelectorAll('details').forEach(each => each.open = true)")
        assert browser.execute_script(OVERFLOW) == [0, []], page
        assert browser.execute_script(OVERLAP) == [], page
        texts, low = browser.execute_script(CONTRAST)
        assert texts > 50
        assert low == [], page
        back = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
        assert (sum(map(int, back[4:-1].split(","))) < 384) == (mode == "dark")
    assert browser.get_log("browser") == []


def test_what_cannot_be_read_would_be_seen(browser: Any, tmp_path: Path) -> None:
    """A control: grey on white, a line that is too wide, and an image that is not there."""
    page = tmp_path / "bad.html"
    wide = "<main><div style='width: 9999px'>wide</div></main><svg><text y='20'>one</text><text y='20'>two</text></svg>"
    page.write_text(f"<body><p style='color: #999'>pale</p><p>dark</p><img src='gone.png'>{wide}</body>")
    browser.get(page.as_uri())
    texts, low = browser.execute_script(CONTRAST)
    assert (texts, [text for text, _ in low]) == (5, ["pale"])
    assert browser.execute_script(OVERLAP) == [[None, "one", "two"]]
    assert browser.execute_script(OVERFLOW)[1] == ["DIV."]
    assert "gone.png" in browser.get_log("browser")[0]["message"]
