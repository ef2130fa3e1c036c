from dataclasses import replace

from corm_batch.data.document import Document


def test_hash_follows_what_can_change_the_answer():
    document = Document("a", "text", {"question": "why?"}, origin="file#0:1")
    assert replace(document, doc_id="b", origin="elsewhere").content_sha256 == document.content_sha256
    assert replace(document, text="other").content_sha256 != document.content_sha256
    assert replace(document, columns={"question": "who?"}).content_sha256 != document.content_sha256


def test_hash_is_the_same_in_every_run_and_takes_any_text():
    document = Document("a", "caf\u00e9 \ud800", {"b": 1, "a": None})
    assert document.content_sha256 == "0159532b4f864cc3ea572c328fe8cb57cccf0dcb5284af627b6df40f3b80610e"
    assert replace(document, columns={"a": None, "b": 1}).content_sha256 == document.content_sha256


def test_keys_that_are_no_text_have_a_hash():
    hashes = {
        Document("a", "text", {"meta": meta}).content_sha256
        for meta in ({1: "a", "b": 2}, {1: "b", "b": 2}, {(1, 2): "a"}, {"x": [{(1, 2): "a"}]})
    }
    assert len(hashes) == 4
    assert Document("a", "text", {"meta": {"b": 2, 1: "a"}}).content_sha256 in hashes


def test_columns_that_are_carried_over_have_a_hash_of_their_own():
    document = Document("a", "text", carried={"url": "u", "caf\ud800": {1: [None]}})
    again = replace(document, carried=dict(reversed(document.carried.items())))
    assert again.carried_sha256 == document.carried_sha256 != replace(document, carried={"url": "u"}).carried_sha256
    assert replace(document, carried={}).carried_sha256 is None
    assert document.content_sha256 == Document("a", "text").content_sha256
