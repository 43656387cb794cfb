"""The notebook's view."""

from dataclasses import replace
from html.parser import HTMLParser

from mottle.observe import RunEvent, Snapshot, snapshot_html


class Tags(HTMLParser):
    """Counts open tags, and fails on one that is closed out of turn."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.open.append(tag)
        self.seen.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_fragment_is_well_formed_and_tells_the_run(last_snapshot: Snapshot) -> None:
    html = snapshot_html(last_snapshot)
    tags = Tags()
    tags.feed(html)
    assert tags.open == []
    assert tags.seen.count("tr") == (1 + 6) + (1 + 6)
    for words in ("14,370 of 14,370 samples", "zeno++", "rejected streak", "0 lost", "test accuracy"):
        assert words in html


def test_every_text_of_a_run_is_escaped(last_snapshot: Snapshot) -> None:
    bad = "<script>alert(1)</script>\x1b"
    hostile = replace(
        last_snapshot,
        run=bad,
        strategy=bad,
        codec=bad,
        metrics={bad: 1.0},
        notes=(bad,),
        workers=(replace(last_snapshot.workers[0], id=bad, device=bad, state=bad),),
        events=(RunEvent(t_s=0.0, kind="warning", worker=bad, text=bad),),
    )
    html = snapshot_html(hostile)
    assert "<script" not in html
    assert "\x1b" not in html
    assert html.count("&lt;script&gt;") == 10


def test_a_long_crew_is_cut_and_says_so(last_snapshot: Snapshot) -> None:
    crew = tuple(replace(last_snapshot.workers[0], id=f"w{i}") for i in range(120))
    assert "and 70 more workers" in snapshot_html(replace(last_snapshot, workers=crew))
