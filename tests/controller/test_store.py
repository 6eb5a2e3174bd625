"""What a shelf shows, whatever the order in which news arrives."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from vipcluster.client import lean
from vipcluster.store import Shelf, version_of

Document = dict[str, Any]


def obj(uid: str, version: int) -> Document:
    return {"metadata": {"uid": uid, "name": f"name-{uid}", "resourceVersion": str(version)}}


def shown(shelf: Shelf) -> dict[str, int]:
    return {each["metadata"]["uid"]: version_of(each) for each in shelf.documents()}


def test_nothing_is_complete_before_the_first_listing() -> None:
    shelf = Shelf()
    assert shelf.put(obj("a", 5))
    before = shelf.is_complete
    assert shelf.replace([], 4)
    assert (before, shelf.is_complete) == (False, True)
    assert shown(shelf) == {"a": 5}, "the object is newer than the listing"


def test_an_empty_first_listing_is_news() -> None:
    shelf = Shelf()
    assert shelf.replace([], 4)
    assert not shelf.replace([], 5)


def test_late_news_about_what_a_listing_did_not_show_is_ignored() -> None:
    shelf = Shelf()
    shelf.replace([], 10)
    assert not shelf.put(obj("a", 7))
    assert shelf.put(obj("a", 11))


def test_an_older_listing_does_not_bring_the_deleted_back() -> None:
    shelf = Shelf()
    shelf.replace([obj("a", 3)], 5)
    assert shelf.remove(obj("a", 9))
    shelf.replace([obj("a", 3)], 8)
    assert shown(shelf) == {}
    shelf.replace([], 10)
    assert shown(shelf) == {}


def test_a_history_that_went_back_replaces_everything() -> None:
    shelf = Shelf()
    shelf.replace([obj("a", 90), obj("b", 91)], 100)
    shelf.remove(obj("b", 99))
    assert shelf.replace([obj("a", 20), obj("b", 21)], 30)
    assert shown(shelf) == {"a": 20, "b": 21}


histories = st.lists(
    st.tuples(st.sampled_from("abc"), st.sampled_from(["put", "put", "remove"])), max_size=12
)


@given(histories, st.data())
def test_the_last_listing_and_what_came_after_it_win_in_whatever_order_they_come(
    history: list[tuple[str, str]], data: Any
) -> None:
    """A history of one resource; its events and two of its listings arrive shuffled, and some twice."""
    worlds: list[dict[str, int]] = [{}]
    events = []
    for version, (uid, change) in enumerate(history, start=1):
        world = dict(worlds[-1])
        if change == "put":
            world[uid] = version
        elif uid in world:
            del world[uid]
        else:
            worlds.append(world)
            continue
        events.append((change, obj(uid, version)))
        worlds.append(world)
    first, second = sorted(data.draw(st.tuples(*[st.integers(0, len(history))] * 2)))
    shelf = Shelf()
    shelf.replace([obj(uid, version) for uid, version in worlds[first].items()], first)
    news = data.draw(st.permutations(events + events[: data.draw(st.integers(0, len(events)))]))
    listed_at = data.draw(st.integers(0, len(news)))
    for index, (change, document) in enumerate(news):
        if index == listed_at:
            shelf.replace([obj(uid, version) for uid, version in worlds[second].items()], second)
        (shelf.put if change == "put" else shelf.remove)(document)
    final = len(history)
    shelf.replace([obj(uid, version) for uid, version in worlds[-1].items()], final)
    assert shown(shelf) == worlds[-1]


def test_a_lean_object_lacks_only_who_set_which_field() -> None:
    full = {"kind": "Node", "metadata": {"name": "a", "labels": {"b": "c"}, "managedFields": [{}]}}
    assert lean(full) == {"kind": "Node", "metadata": {"name": "a", "labels": {"b": "c"}}}
    assert full["metadata"] == {"name": "a", "labels": {"b": "c"}, "managedFields": [{}]}, (
        "it is another one's"
    )
