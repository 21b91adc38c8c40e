"""The report page in a real browser: Chromium without a window, driven through its own driver."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import tracer
from examples.resnet50 import ResNet50
from tests.test_graph_formats import STRANGE, Strange
from tests.test_graph_view import Net
from tests.test_ladder import Parent

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chromium-browser")
DRIVER = shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(
    CHROMIUM is None or DRIVER is None, reason="no Chromium with its driver: apt-get install chromium chromium-driver"
)
DESKTOP, PHONE = (1280, 800), (390, 844)


class Writes(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen.copy_(x.sum())
        return x


class Browser:
    """A browser on one page, with what it said and asked for since the page was opened."""

    def __init__(self, folder: Path):
        from selenium import webdriver

        options = webdriver.ChromeOptions()
        options.binary_location = str(CHROMIUM)
        # Containers have neither the rights for Chromium's sandbox nor much shared memory.
        for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"):
            options.add_argument(argument)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        self.folder = folder
        self.driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(str(DRIVER)))

    def open(self, model: nn.Module, *sample: Any, size: tuple[int, int] = DESKTOP, scheme: str = "light") -> Browser:
        """Opens the model's report; `said` and `requested` start anew."""
        width, height = size
        self.command(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        self.command("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        file = self.folder / "report.html"
        tracer.draw(model, sample, file)
        self.said()
        self.driver.get_log("performance")
        self.driver.get(file.as_uri())
        return self

    def command(self, name: str, **parameters: Any) -> Any:
        return self.driver.execute_cdp_cmd(name, parameters)

    def run(self, script: str, *arguments: Any) -> Any:
        return self.driver.execute_script(script, *arguments)

    def texts(self, selector: str) -> list[str]:
        """The text of every element that fits, shown or not."""
        found: list[str] = self.run(
            "return [...document.querySelectorAll(arguments[0])].map((e) => e.textContent)", selector
        )
        return found

    def click(self, selector: str) -> None:
        """A click as a person's: on what is there, at its middle."""
        from selenium.webdriver.common.action_chains import ActionChains
        from selenium.webdriver.common.by import By

        element = self.driver.find_element(By.CSS_SELECTOR, selector)
        ActionChains(self.driver).scroll_to_element(element).move_to_element(element).click().perform()

    def press(self, selector: str, *keys: str) -> None:
        from selenium.webdriver.common.action_chains import ActionChains

        self.run("document.querySelector(arguments[0]).focus()", selector)
        ActionChains(self.driver).send_keys(*keys).perform()

    def said(self) -> list[str]:
        return [entry["message"] for entry in self.driver.get_log("browser")]

    def requested(self) -> list[str]:
        messages = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        return [
            message["params"]["request"]["url"]
            for message in messages
            if message["method"] == "Network.requestWillBeSent"
        ]


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    browser = Browser(tmp_path_factory.mktemp("page"))
    yield browser
    browser.driver.quit()


RESNET = (tracer.spec("N", 3, 64, 64),)
NODE = '[data-node="{}"]'
GROUP = '[data-group="{}"]'


class TestOpening:
    @pytest.mark.parametrize("scheme", ["light", "dark"])
    @pytest.mark.parametrize("size", [DESKTOP, PHONE])
    def test_no_error_and_no_request(self, browser: Browser, size: tuple[int, int], scheme: str) -> None:
        browser.open(ResNet50(), *RESNET, size=size, scheme=scheme)
        browser.click(GROUP.format("stages.0.0"))
        assert browser.said() == []
        page, *others = browser.requested()
        assert page.startswith("file:")
        assert [url for url in others if not url.startswith("data:")] == []
        assert browser.run("return document.documentElement.scrollWidth <= document.documentElement.clientWidth")

    def test_a_page_that_asked_for_something_would_be_noticed(self, browser: Browser) -> None:
        """The policy in the page stops even what is put into it afterwards, and these tests would see it."""
        browser.open(Parent(), tracer.spec("N", 8))
        browser.run("document.body.append(Object.assign(new Image(), {src: 'http://127.0.0.1:9/x.png'}))")
        assert any("Content Security Policy" in message for message in browser.said())

    def test_totals_and_facts(self, browser: Browser) -> None:
        browser.open(ResNet50(), *RESNET)
        assert browser.texts("h1") == ["ResNet50"]
        totals = dict(zip(browser.texts("#totals dt"), browser.texts("#totals dd"), strict=True))
        kinds = [node.kind for node in tracer.draw(ResNet50(), RESNET).view.nodes]
        assert totals == {
            "parameters": "25.6 M",
            "multiply-adds": "336 M·N",
            "operations": str(kinds.count("layer") + kinds.count("operation")),
            "lazy layers": "107",
            "guards": "0",
        }
        assert browser.texts("#signature") == ["image float32[N, 3, 64, 64] → float32[N, 1000]"]
        browser.open(Parent(), tracer.spec("N", 8))
        assert browser.texts("#notes summary") == ["Not traced (1)"]
        assert "only real tensors" in browser.texts("#notes li")[0]

    def test_guards(self, browser: Browser) -> None:
        class Decides(nn.Module):
            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return x * 2 if x.shape[1] > 4 else x

        browser.open(Decides(), tracer.spec("N", "T"))
        assert browser.texts("#notes summary")[0] == "Holds if (1)"
        assert re.match(r"T >= 5 the model's forward, test_report_page\.py:\d+", browser.texts("#notes li")[0])

    def test_cautions(self, browser: Browser) -> None:
        browser.open(Writes(), tracer.spec(2, 3))
        assert browser.texts("#notes summary") == ["Written by the forward (1)"]
        assert browser.texts("#notes li") == ["seen an exported file does not keep that, unless by state=explicit"]

    def test_strange_names_are_only_text(self, browser: Browser) -> None:
        Evil = type("</script><script>alert(1)</script>", (Strange,), {})
        browser.open(Evil(), tracer.spec("N", 4))
        assert browser.said() == []
        assert browser.texts("h1") == ["</script><script>alert(1)</script>"]
        assert browser.texts("td.path") == [f"{STRANGE}.0", f"{STRANGE}.1"]


FAULTS_OF_LAYOUT = """
    const box = (element) => element.querySelector(":scope > rect").getBoundingClientRect();
    const isInside = (a, b) => a.left >= b.left && a.right <= b.right && a.top >= b.top && a.bottom <= b.bottom;
    const overlap = (a, b) => a.left < b.right && b.left < a.right && a.top < b.bottom && b.top < a.bottom;
    const faults = [];
    for (const contents of document.querySelectorAll("#pane g.group.open > g:not(.header), #pane svg > g")) {
        const items = [...contents.children].filter((child) => child.matches(".node, .group"));
        const module = contents.closest(".group");
        items.forEach((item, index) => {
            if (module && !isInside(box(item), box(module))) faults.push(["outside", item.textContent]);
            for (const other of items.slice(index + 1)) {
                if (overlap(box(item), box(other))) faults.push(["overlap", item.textContent, other.textContent]);
            }
        });
    }
    return faults;
"""


class TestGraph:
    def test_shapes_on_edges_and_lazy_layers_marked(self, browser: Browser) -> None:
        browser.open(Net(), tracer.spec("N", 3, "H", 6))
        assert {"N×3×H×6", "8×1×1", "N×4×6*H"} <= set(browser.texts(".shape text"))
        lazy = browser.run("return [...document.querySelectorAll('.node.lazy')].map((e) => e.dataset.node)")
        assert sorted(lazy) == ["blocks_0_conv", "blocks_0_norm", "blocks_1_conv", "blocks_1_norm", "fc"]
        assert "in_features = 4" in browser.texts(f"{NODE.format('fc')} .inferred")

    def test_modules_open_and_close(self, browser: Browser) -> None:
        browser.open(ResNet50(), *RESNET)
        header = GROUP.format("stages.1.2")
        expanded = f"return document.querySelector('{header}').getAttribute('aria-expanded')"
        inside = NODE.format("stages_1_2_narrow_0")
        assert browser.run(expanded) == "false"
        assert browser.texts(f"{header} .quiet") == ["11 operations, 6 lazy"]
        browser.click(header)
        assert browser.run(expanded) == "true"
        browser.click(GROUP.format("stages.1.2.narrow"))
        assert browser.texts(f"{inside} .inferred") == ["in_channels = 512"]
        browser.press(header, "\ue007")  # Enter
        assert browser.run(expanded) == "false"
        assert browser.texts(inside) == []

    def test_boxes_inside_their_modules_and_apart_from_each_other(self, browser: Browser) -> None:
        """As drawn, with everything open: siblings do not overlap, and nothing leaves its module's frame."""
        browser.open(ResNet50(), *RESNET)
        browser.click("#expand")
        assert browser.run(FAULTS_OF_LAYOUT) == []
        assert len(browser.texts("#pane .node")) == len(tracer.draw(ResNet50(), RESNET).view.nodes)

    def test_zoom(self, browser: Browser) -> None:
        browser.open(ResNet50(), *RESNET)
        width = "return document.querySelector('#pane svg').getBoundingClientRect().width"
        before = browser.run(width)
        browser.click("#larger")
        assert browser.run(width) == pytest.approx(before * 1.25, abs=1)
        browser.run("""
            document.getElementById("pane").dispatchEvent(
                new WheelEvent("wheel", {deltaY: -150, ctrlKey: true, bubbles: true, cancelable: true}))
        """)
        assert browser.run(width) == pytest.approx(before * 1.25 * 1.6487, abs=2)
        browser.click("#fit")
        pane = "return document.querySelector('#pane').clientHeight - document.querySelector('#pane svg').clientHeight"
        assert browser.run(pane) >= 0

    def test_dragging_pans(self, browser: Browser) -> None:
        from selenium.webdriver.common.action_chains import ActionChains
        from selenium.webdriver.common.by import By

        browser.open(ResNet50(), *RESNET)
        node = browser.driver.find_element(By.CSS_SELECTOR, NODE.format("stem_1"))
        actions = ActionChains(browser.driver)
        actions.move_to_element(node).click_and_hold().move_by_offset(0, -60).move_by_offset(0, -60).release().perform()
        assert browser.run("return document.getElementById('pane').scrollTop") == pytest.approx(120, abs=2)
        assert browser.texts(".heading") == []  # the drag ended on a layer, and was no click


class TestChain:
    def test_click_on_a_layer(self, browser: Browser) -> None:
        browser.open(Net(), tracer.spec("N", 3, "H", 6))
        browser.click(NODE.format("fc"))
        view = tracer.draw(Net(), (tracer.spec("N", 3, "H", 6),)).view
        chain = view.chain(next(node for node in view.nodes if node.id == "fc"))
        assert browser.texts(".heading h2") == ["fc"]
        assert browser.texts(".heading .pill") == ["in_features = 4"]
        names = [
            f"{node.type}{f' in {node.group}' if node.group else ''}" if node.kind == "operation" else node.path
            for node in chain
        ]
        assert browser.texts(".chain button") == names
        assert browser.texts(".chain .place") == [node.source or "" for node in chain]
        assert browser.texts(".chain .result")[:2] == ["N×3×H×6", "N×8×H×6"]
        assert browser.texts(".chain li:nth-child(2) b") == ["8"]
        drawn = browser.run("return [...document.querySelectorAll('.node.on-chain')].map((e) => e.dataset.node)")
        assert sorted(drawn) == sorted(node.id for node in chain)
        assert len(browser.texts(".link.on-chain")) >= len(chain) - 1

    def test_from_the_table_and_along_the_chain(self, browser: Browser) -> None:
        """A row opens the modules around its layer; a step of the chain leads on to that step."""
        browser.open(ResNet50(), *RESNET)
        assert browser.texts(NODE.format("stages_3_2_widen_0")) == []
        browser.run("document.getElementById('search').focus()")
        browser.press("#search", "stages.3.2.widen.0")
        browser.click("td.path button")
        assert browser.texts(".heading h2") == ["stages.3.2.widen.0"]
        assert browser.texts("tr.selected .path") == ["stages.3.2.widen.0"]
        assert browser.run("""
            const box = document.querySelector(".node.selected").getBoundingClientRect();
            const pane = document.getElementById("pane").getBoundingClientRect();
            return box.top >= pane.top && box.bottom <= pane.bottom && box.left >= pane.left && box.right <= pane.right;
        """)
        browser.click(".chain li:nth-last-child(2) button")
        assert browser.texts(".heading h2") == ["stages.3.2.relu"]

    def test_by_keyboard(self, browser: Browser) -> None:
        browser.open(Net(), tracer.spec("N", 3, "H", 6))
        browser.press(NODE.format("blocks_1_norm"), " ")
        assert browser.texts(".heading h2") == ["blocks.1.norm"]
        assert browser.run("return document.activeElement.dataset.node") == "blocks_1_norm"


class TestTable:
    def test_rows(self, browser: Browser) -> None:
        browser.open(Net(), tracer.spec("N", 3, "H", 6))
        header = [text.strip() for text in browser.texts("th")]
        assert header == ["path", "type", "input shapes", "output shape", "params", "macs", "inferred"]
        first = browser.texts("tbody tr:first-child td")
        assert first == ["blocks.0.conv", "LazyConv2d", "N×3×H×6", "N×8×H×6", "224", "1.3 k·H·N", "in_channels = 3"]
        assert browser.texts("#found") == ["18 of 18"]

    def test_sorting(self, browser: Browser) -> None:
        browser.open(Net(), tracer.spec("N", 3, "H", 6))
        order = browser.texts("td.path")
        params = [int(text.replace(",", "") or 0) for text in browser.texts("td.params")]
        for expected, direction in [
            (sorted(params, reverse=True), "descending"),
            (sorted(params), "ascending"),
            (params, None),
        ]:
            browser.click("th:nth-child(5) button")
            assert [int(text.replace(",", "") or 0) for text in browser.texts("td.params")] == expected
            sort = "return document.querySelector('th:nth-child(5)').getAttribute('aria-sort')"
            assert browser.run(sort) == direction
        assert browser.texts("td.path") == order
        browser.click("th:nth-child(2) button")
        assert browser.texts("td.type") == sorted(browser.texts("td.type"), key=str.lower)

    def test_searching(self, browser: Browser) -> None:
        browser.open(ResNet50(), *RESNET)
        browser.press("#search", "stages.2 LAZYCONV 1024")
        expected = [
            node.path
            for node in tracer.draw(ResNet50(), RESNET).view.nodes
            if node.path.startswith("stages.2")
            and node.type == "LazyConv2d"
            and 1024 in {*node.resolved.values(), *node.output_shape}
        ]
        assert browser.texts("td.path") == expected
        assert browser.texts("#found")[0].startswith(f"{len(expected)} of ")


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.narrow, self.widen = nn.LazyLinear(8), nn.LazyLinear(16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.widen(torch.relu(self.narrow(x))) + x)


class Flat(nn.Module):
    """Everything in one forward."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.LazyLinear(16) for _ in range(333))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = torch.relu(layer(x) + x)
        return x


class Wide(nn.Module):
    """Many values from one place to another."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.LazyLinear(4) for _ in range(500))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([torch.relu(layer(x)) for layer in self.layers], 1)


def nested() -> nn.Module:
    return nn.Sequential(*[nn.Sequential(*[Residual() for _ in range(10)]) for _ in range(20)])


def sequential() -> nn.Module:
    return nn.Sequential(*[nn.LazyLinear(16) for _ in range(1000)])


@pytest.mark.parametrize("build", [nested, sequential, Flat, Wide])
def test_a_model_of_1000_nodes(browser: Browser, build: Any) -> None:
    """It opens with few boxes, and all of it can be opened."""
    browser.open(build(), tracer.spec("N", 16))
    assert browser.said() == []
    assert len(browser.texts("#pane .node, #pane .group")) <= 64
    assert len(browser.texts("tbody tr")) >= 999
    browser.click("#expand")
    assert len(browser.texts("#pane .node")) >= 1001
    assert browser.said() == []


@pytest.mark.slow
@pytest.mark.parametrize("build", [nested, sequential, Flat, Wide])
def test_a_model_of_1000_nodes_opens_in_3_seconds(browser: Browser, build: Any) -> None:
    browser.open(build(), tracer.spec("N", 16))
    assert float(browser.run("return document.documentElement.dataset.openedIn")) < 3000
