import json
from typing import Any

from runner.executor.masking import MASK, Masker

SECRET = {"kind": "Secret", "data": {"password": "b3Blbi1zZXNhbWU="}, "stringData": {"pin": "1234\n5678"}}


def test_a_secrets_data_is_masked_in_any_depth_and_its_keys_stay() -> None:
    masked = Masker().mask({"res": {"resources": [SECRET, {"kind": "ConfigMap", "data": {"a": "b"}}]}})
    assert masked == {
        "res": {
            "resources": [
                {"kind": "Secret", "data": {"password": MASK}, "stringData": {"pin": MASK}},
                {"kind": "ConfigMap", "data": {"a": "b"}},
            ]
        }
    }


def test_what_was_once_a_secret_is_masked_in_later_texts_decoded_and_escaped() -> None:
    masker = Masker()
    masker.mask(SECRET)
    printed = json.dumps({"pin": "1234\n5678"})
    texts = ["b3Blbi1zZXNhbWU= is open-sesame", "user:open-sesame@host", printed, "MTIzNAo1Njc4"]
    for masked in masker.mask(texts):
        assert MASK in masked
        assert not any(word in masked for word in ("sesame", "b3Bl", "5678", "MTIz"))


def test_text_and_structure_of_one_event_are_masked_together() -> None:
    event: dict[str, Any] = {"stdout": "pw open-sesame", "event_data": {"res": {"result": SECRET}}}
    assert Masker().mask(event)["stdout"] == f"pw {MASK}"


def test_short_values_do_not_tear_holes_into_other_words() -> None:
    masker = Masker()
    masked = masker.mask({"kind": "Secret", "data": {"a": "dHJ1ZQ=="}, "note": "true story"})
    assert masked == {"kind": "Secret", "data": {"a": MASK}, "note": "true story"}


def test_given_secrets_are_masked_from_the_start() -> None:
    assert Masker(["token-123"]).mask(["http://token-123@localhost", 5, None]) == [f"http://{MASK}@localhost", 5, None]


def test_an_event_as_json_is_masked_as_one_that_is_not_and_is_left_alone_where_there_is_nothing() -> None:
    pem = '-----BEGIN KEY-----\nabc"def\\ghi\n-----END KEY-----\n'
    masker = Masker()
    masker.mask({"kind": "Secret", "stringData": {"key": pem}})
    # What is printed quotes the secret, once as JSON and once as Python does; the event quotes what is printed.
    for printed in (json.dumps({"content": pem}), f"(item={{'content': {pem!r}}})", pem):
        event = {"event": "playbook_on_include", "stdout": f"included: x => {printed}"}
        masked = masker.mask_json(json.dumps(event))
        assert json.loads(masked) == masker.mask(event)
        assert "ghi" not in masked
    plain = json.dumps({"stdout": "nothing of it"})
    assert masker.mask_json(plain) is plain
