import base64
import json
from typing import Any

import pytest

from runner.executor.jobs import REQUEUE_RESULTS, JobEvent, fold
from runner.resource.masking import MASK, MASKED_BOOLEAN, MASKED_NUMBER, Masker

SECRET = {"kind": "Secret", "data": {"password": "b3Blbi1zZXNhbWU="}, "stringData": {"pin": "1234\n5678"}}
# As awx-operator and galaxy-operator make them, but for the passwords.
POSTGRES = {
    "kind": "Secret",
    "metadata": {"name": "awx-demo-postgres-configuration", "namespace": "awx"},
    "stringData": {
        **{
            "host": "awx-demo-postgres-15",
            "database": "galaxy",
            "username": "galaxy",
            "type": "managed",
            "sslmode": "prefer",
        },
        **{"port": "5432", "password": "Tq7wXm2LpZ9vKc4R"},
    },
}


def secret(**entries: Any) -> dict[str, Any]:
    return {"kind": "Secret", "stringData": entries}


def having_seen(*objects: Any, names: tuple[str, ...] = ()) -> Masker:
    masker = Masker(names=names, plain_results=REQUEUE_RESULTS)
    masker.mask(list(objects))
    return masker


def masked_event(masker: Masker, **event: Any) -> dict[str, Any]:
    masked: dict[str, Any] = json.loads(masker.mask_json(json.dumps(event)))
    return masked


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
    masker = having_seen(SECRET)
    printed = json.dumps({"pin": "1234\n5678"})
    texts = ["b3Blbi1zZXNhbWU= is open-sesame", "user:open-sesame@host", printed, "MTIzNAo1Njc4"]
    for masked in masker.mask(texts):
        assert MASK in masked
        assert not any(word in masked for word in ("sesame", "b3Bl", "5678", "MTIz"))


def test_text_and_structure_of_one_event_are_masked_together() -> None:
    event: dict[str, Any] = {"stdout": "pw open-sesame", "event_data": {"res": {"result": SECRET}}}
    assert Masker().mask(event)["stdout"] == f"pw {MASK}"


def test_short_values_do_not_tear_holes_into_other_words() -> None:
    masked = Masker().mask({"kind": "Secret", "data": {"a": "dHJ1ZQ==", "key": "YQ=="}, "note": "true story"})
    assert masked == {"kind": "Secret", "data": {"a": MASK, "key": MASK}, "note": "true story"}


def test_given_secrets_are_masked_from_the_start() -> None:
    assert Masker(["token-123"]).mask(["http://token-123@localhost", 5, None]) == [f"http://{MASK}@localhost", 5, None]


def test_given_secrets_are_masked_in_every_text() -> None:
    event = {
        "event": "runner_on_ok",
        "event_data": {
            "task": "to token-123",
            "role": "a token-123",
            "host": "token-123",
            "res": {"name": "token-123", "msg": ["token-123"]},
        },
    }
    assert "token-123" not in Masker(["token-123"]).mask_json(json.dumps(event))


def test_an_event_as_json_is_masked_as_one_that_is_not_and_is_left_alone_where_there_is_nothing() -> None:
    pem = '-----BEGIN KEY-----\nabc"def\\ghi\n-----END KEY-----\n'
    masker = having_seen({"kind": "Secret", "stringData": {"key": pem}})
    # What is printed quotes the secret, once as JSON and once as Python does; the event quotes what is printed.
    for printed in (json.dumps({"content": pem}), f"(item={{'content': {pem!r}}})", pem):
        event = {"event": "playbook_on_include", "stdout": f"included: x => {printed}"}
        masked = masker.mask_json(json.dumps(event))
        assert json.loads(masked) == masker.mask(event)
        assert "ghi" not in masked
    for event in ({"stdout": "nothing of it"}, {"stdout": "a Secret called by its name"}):
        plain = json.dumps(event)
        assert masker.mask_json(plain) is plain


def test_a_value_that_is_no_text_says_so() -> None:
    masked = Masker().mask(secret(port=5432, flag=True, pin=123456789))
    assert masked["stringData"] == {"port": MASKED_NUMBER, "flag": MASKED_BOOLEAN, "pin": MASKED_NUMBER}


# ---- Decisions are made by what happened.


def test_a_value_that_is_an_ansible_word_changes_no_event() -> None:
    masker = having_seen(secret(username="operator", app="playbook", password="playbook_on_stats", token="localhost"))
    events = [
        {
            "event": "runner_on_ok",
            "event_data": {"task_action": "operator_sdk.util.requeue_after", "res": {"period": "1h0m"}},
        },
        {"event": "playbook_on_stats", "event_data": {"ok": {"localhost": 2}, "playbook": "/x/operator/playbook.yml"}},
    ]
    told = [masked_event(masker, **event) for event in events]
    assert told == events
    outcome = fold(map(JobEvent.of, told))
    assert (outcome.ok, outcome.requeue_after) == (2, "1h0m")


def test_a_period_is_read_whatever_secrets_hold() -> None:
    masker = having_seen(secret(password="10h30m0s"))
    event = {"event_data": {"task_action": "requeue_after", "res": {"period": "10h30m0s", "msg": "in 10h30m0s"}}}
    assert masked_event(masker, **event)["event_data"]["res"] == {"period": "10h30m0s", "msg": f"in {MASK}"}


def test_what_check_mode_does_not_predict_is_seen_whatever_secrets_hold() -> None:
    masker = having_seen(secret(password="check mode", token="censored", key="mode"))
    skipped = {"event": "runner_on_skipped", "stdout": 'skipping: [localhost] => {"msg": "would run if not in check mode"}'}
    assert JobEvent.of(masked_event(masker, **skipped)).unpredicted == "would run if not in check mode"
    hidden = {"event": "runner_on_skipped", "stdout": 'skipping: [localhost] => {"censored": "hidden", "x": "Secret"}'}
    assert "no_log" in JobEvent.of(masked_event(masker, **hidden)).unpredicted


# ---- Names stay readable.


@pytest.mark.parametrize(
    "text",
    [
        "/opt/galaxy-operator/roles/galaxy/tasks/main.yml:3",
        "Failed to execute on pod awx-demo-postgres-15-0 due to error",
        "Wait for Database to initialize if managed DB",
        "could not connect to awx-demo-postgres-15:5432 as galaxy",
    ],
)
def test_what_stands_in_a_secret_without_being_secret_stays_readable(text: str) -> None:
    assert having_seen(POSTGRES).mask(text) == text


def test_what_is_secret_in_it_is_masked() -> None:
    masker = having_seen(POSTGRES)
    password = "Tq7wXm2LpZ9vKc4R"
    for text in (f"postgres://galaxy:{password}@host/galaxy", f"x{password}x", base64.b64encode(password.encode()).decode()):
        assert MASK in masker.mask(text)
        assert password not in masker.mask(text)


def test_a_secret_as_it_is_printed_shows_none_of_its_values() -> None:
    encoded = {key: base64.b64encode(value.encode()).decode() for key, value in POSTGRES["stringData"].items()}  # type: ignore[attr-defined]
    read = {"apiVersion": "v1", "kind": "Secret", "data": {**encoded, "short": "YQ=="}}
    masker = Masker()
    for printed in (f"ok: [localhost] => {json.dumps({'result': read})}", f"ok: {{'resources': [{read!r}]}}"):
        shown = masked_event(masker, stdout=printed, event_data={"res": {"result": read}})["stdout"]
        assert shown.count(MASK) == len(read["data"])
        assert not any(value in shown for value in read["data"].values())


def test_a_value_that_is_a_word_is_masked_as_a_whole_word() -> None:
    masker = having_seen(secret(password="changeme", admin_password="hunter2000"))
    for text, shown in {
        "user:changeme@host": f"user:{MASK}@host",
        "the password is changeme.": f"the password is {MASK}.",
        '{"password": "hunter2000", "x": 1}': f'{{"password": "{MASK}", "x": 1}}',
        "PGPASSWORD=hunter2000 psql": f"PGPASSWORD={MASK} psql",
        "mysql -phunter2000 -uroot": f"mysql -p{MASK} -uroot",
        "line\\nhunter2000\\tx \\\\nhunter2000": f"line\\n{MASK}\\tx \\\\n{MASK}",
        "\x1b[0;31mhunter2000\x1b[0m": f"\x1b[0;31m{MASK}\x1b[0m",
        "aHVudGVyMjAwMA==": MASK,
        "/roles/changeme-operator/tasks/changeme/main.yml": "/roles/changeme-operator/tasks/changeme/main.yml",
        "changemenow hunter20001": "changemenow hunter20001",
    }.items():
        assert masker.mask(text) == shown


def test_a_value_that_is_a_word_is_masked_between_separators() -> None:
    masker = having_seen(secret(password="changeme1", token="my-pass/word", key="managed"), names=("app-changeme1-0",))
    for text, shown in {
        "redis/changeme1 changeme1.db x_changeme1": f"redis/{MASK} {MASK}.db x_{MASK}",
        "//host/changeme1/x.json a-changeme1-b changeme1": f"//host/{MASK}/x.json a-{MASK}-b {MASK}",
        "x/my-pass/word/y my-pass": f"x/{MASK}/y my-pass",
        "redis/managed managed.db": f"redis/{MASK} {MASK}.db",
        "x/my-pass/word/changeme1/managed.y": f"x/{MASK}/{MASK}/{MASK}.y",
        "un-managed managed_by": "un-managed managed_by",
        "app-changeme1-0 /x/changeme1/main.yml:3 changeme11": "app-changeme1-0 /x/changeme1/main.yml:3 changeme11",
    }.items():
        assert masker.mask(text) == shown


def test_of_values_that_overlap_in_a_word_nothing_stays() -> None:
    masker = having_seen(secret(password="changeme", token="changeme/other", key="x/changeme", pw="other.one"))
    assert masker.mask("is x/changeme/other.one/z") == f"is {MASK}/z"


def test_only_what_looks_like_a_name_is_one_under_a_names_key() -> None:
    masker = having_seen(secret(password="changeme1"))
    value = {"src": "pw changeme1", "name": ["x:changeme1", "changeme1"], "path": {"x": "is changeme1"}}
    assert masker.mask(value) == {"src": f"pw {MASK}", "name": [f"x:{MASK}", "changeme1"], "path": {"x": f"is {MASK}"}}


def test_a_password_that_is_a_name_does_not_hide_the_name() -> None:
    pod = {"kind": "Pod", "metadata": {"name": "postgres", "namespace": "galaxy", "labels": {"app": "managed"}}}
    masker = having_seen(secret(password="operator", token="postgres", key="managed"), pod, names=("operator",))
    for text in ("CR operator in galaxy", 'pods "postgres" not found', "app=managed"):
        assert masker.mask(text) == text
    assert masker.mask(pod) == pod


def test_a_random_value_that_is_part_of_a_name_does_not_hide_the_name() -> None:
    masker = having_seen(secret(id="x9Kq2mPz7w"), names=("app-x9Kq2mPz7w-0",))
    assert masker.mask("app-x9Kq2mPz7w-0: x9Kq2mPz7w") == f"app-x9Kq2mPz7w-0: {MASK}"


def test_a_tasks_name_stays_where_it_stands_and_where_it_is_printed() -> None:
    masker = having_seen(secret(password="managed", token="Tq7wXm2LpZ9vKc4R"))
    masked = masked_event(
        masker,
        stdout="TASK [role : Wait if managed DB] ***",
        event_data={"task": "Wait if managed DB", "task_path": "/managed/x.yml:3", "res": {"msg": "pw managed"}},
    )
    assert masked["stdout"] == "TASK [role : Wait if managed DB] ***"
    assert masked["event_data"] == {
        "task": "Wait if managed DB",
        "task_path": "/managed/x.yml:3",
        "res": {"msg": f"pw {MASK}"},
    }
    # A value that looks like no name is none, not even there.
    assert masked_event(masker, event_data={"task": "Log in with Tq7wXm2LpZ9vKc4R"})["event_data"]["task"].endswith(MASK)


def test_a_long_title_that_is_full_of_a_secret_is_read_once() -> None:
    """That it ends at all shows that no word is compared with each place of the title. Its beginning stays."""
    masker = having_seen(secret(password="managed"))
    title = "managed " * 125_000
    event = masked_event(masker, event_data={"task": title, "res": {"msg": f"{title} managed"}})
    assert event["event_data"]["task"] == title
    shown = event["event_data"]["res"]["msg"]
    assert shown.startswith("managed managed")
    assert shown.endswith(f" {MASK}")
    short = masked_event(masker, event_data={"task": "all managed", "res": {"msg": "all managed, managed all managed"}})
    assert short["event_data"]["res"]["msg"] == f"all managed, {MASK} all managed"


@pytest.mark.parametrize(
    "value",
    [
        "9b2c1f4e-1d2a-4c3b-8e7f-0a1b2c3d4e5f",
        "https://hooks.example.com/9b2c1f4e-1d2a-4c3b-8e7f-0a1b2c3d4e5f",
        "deadbeefdeadbeefdeadbeef",
        "correct horse battery staple",
        "hunter2abc",
        "passw0rd",
        "48151623421234567",
        48151623421234567,
    ],
)
def test_what_looks_like_a_secret_is_masked_whatever_its_key(value: Any) -> None:
    assert having_seen(secret(postgres=value)).mask(f"with {value}.") == f"with {MASK}."


@pytest.mark.parametrize(
    "value",
    [
        *("v1alpha1", "utf8mb4_unicode_ci", "us-east-1a", "s3bucket", "postgres15", "pg15.example.com", "20261127"),
        *("awx-demo-postgres-15", "TLSv1.2", "registry.example.com/org/image:1.2.3", "two words"),
    ],
)
def test_what_looks_like_a_name_stays_whatever_its_key(value: str) -> None:
    assert having_seen(secret(postgres=value)).mask(f"with {value}.") == f"with {value}."


def test_of_several_words_none_is_masked_alone() -> None:
    masker = having_seen(secret(about="The database of the demo, managed"))
    assert masker.mask("The database is managed") == "The database is managed"


@pytest.mark.parametrize("text", ["changeme\n", " changeme", "hunter 2\n", f"{'-' * 9}\nabc def\n{'-' * 9}\n"])
def test_the_base64_of_a_value_with_white_space_around_it_is_masked(text: str) -> None:
    """As `echo changeme | base64` makes it."""
    encoded = base64.b64encode(text.encode()).decode()
    for object_ in ({"kind": "Secret", "data": {"password": encoded}}, secret(password=text)):
        assert having_seen(object_).mask([f"is {encoded}", f"is {text.strip()}"]) == [f"is {MASK}"] * 2


# ---- Where Secrets are found.


def test_a_definition_in_text_is_one_too() -> None:
    definition = (
        "apiVersion: v1\nkind: Secret\nmetadata:\n  name: x\nstringData:\n  password: open-sesame\n  user: bob\n  n: 5\n"
    )
    for text in (definition, json.dumps({"kind": "Secret", "stringData": {"password": "open-sesame", "user": "bob"}})):
        event = {
            "event_data": {"res": {"msg": "no", "invocation": {"module_args": {"definition": text}}}},
            "stdout": "open-sesame",
        }
        masked = Masker().mask_json(json.dumps(event))
        assert "sesame" not in masked
        assert "bob" not in masked


def test_a_definition_whose_kind_stands_beside_it_is_a_secrets() -> None:
    definition = {"metadata": {"name": "x"}, "stringData": {"password": "open-sesame", "user": "bob"}}
    masker = Masker()
    masked = masker.mask({"kind": "Secret", "name": "x", "definition": definition, "resource_definition": definition})
    shown = {"metadata": {"name": "x"}, "stringData": {"password": MASK, "user": MASK}}
    assert masked == {"kind": "Secret", "name": "x", "definition": shown, "resource_definition": shown}
    assert masker.mask("is open-sesame") == f"is {MASK}"
    other = {"kind": "Secret", "definition": {"kind": "ConfigMap", "data": {"a": "b"}}}
    assert masker.mask(other) == other


@pytest.mark.parametrize("kind", ["kind: Secret", 'kind: "Secret"', "kind:   'Secret'"])
def test_yaml_of_a_secret_is_one_however_it_is_quoted(kind: str) -> None:
    masker = Masker()
    masker.mask({"definition": f"{kind}\nstringData:\n  password: open-sesame\n"})
    assert masker.mask("is open-sesame") == f"is {MASK}"


def test_a_pair_in_yaml_ends_with_its_line() -> None:
    masker = having_seen(secret(x="a", type="managed"))
    text = "kind: Secret\nx: a\nx: apple\ntype: managed-too\ntype: 'managed'\n"
    assert masker.mask(text) == f"kind: Secret\nx: {MASK}\nx: apple\ntype: managed-too\ntype: '{MASK}'\n"


def test_a_patch_of_a_secret_and_the_difference_that_it_makes() -> None:
    patch = [
        {"op": "replace", "path": "/data/password", "value": "b3Blbi1zZXNhbWU="},
        {"op": "add", "path": "/x", "value": "y"},
    ]
    masker = Masker()
    masked = masker.mask({"kind": "Secret", "name": "x", "patch": patch})
    assert [operation["value"] for operation in masked["patch"]] == [MASK, "y"]
    assert masker.mask("open-sesame") == MASK
    difference = {"before": {"data": {"password": "b2xkLXNlc2FtZQ=="}}, "after": {"data": {"password": "b3Blbi1zZXNhbWU="}}}
    masked = masker.mask({"result": SECRET, "diff": difference, "note": "it was old-sesame"})
    assert masked["diff"] == {side: {"data": {"password": MASK}} for side in ("before", "after")}
    assert masked["note"] == f"it was {MASK}"


PEM = """-----BEGIN CERTIFICATE-----
MIIDdzCCAl+gAwIBAgIEAgAAuTANBgkqhkiG9w0BAQUFADBaMQswCQYDVQQGEwJJ
RTESMBAGA1UE
-----END CERTIFICATE-----
"""
SETTINGS = """
import os

DEBUG = False
CONTENT_ORIGIN = "https://galaxy.example.com"
SECRET_KEY = 'django-x'
DATABASES = {'default': {'ENGINE': 'django.db.backends.postgresql', 'NAME': 'galaxy', 'PASSWORD': 'changeme', 'PORT': 5432}}
CACHE = "redis://:s3same-0pen@redis:6379/0"
LICENSE = Zk93kSlQ0dLw02Mx
"""


def test_of_a_file_what_is_secret_is_masked_and_not_each_line() -> None:
    masker = having_seen(secret(**{"settings.py": SETTINGS, "ca.pem": PEM}))
    shown = masker.mask(SETTINGS.splitlines())
    assert shown == [
        line.replace("django-x", MASK)
        .replace("changeme", MASK)
        .replace("s3same-0pen", MASK)
        .replace("Zk93kSlQ0dLw02Mx", MASK)
        for line in SETTINGS.splitlines()
    ]
    assert masker.mask([SETTINGS, PEM]) == [f"\n{MASK}\n", f"{MASK}\n"]
    assert masker.mask(PEM.splitlines()[:2]) == ["-----BEGIN CERTIFICATE-----", MASK]


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("dsn", "host=db password=s3same-0pen user=me", "s3same-0pen"),
        ("url", "amqp://me:open%2Dsesame@mq/vhost", "open-sesame"),
        (".dockerconfigjson", '{"auths": {"r.io": {"username": "me", "password": "open-sesame"}}}', "open-sesame"),
        ("config.json", '{"db": {"password": "open-sesame"}}', "open-sesame"),
        ("passphrase", "correct horse battery", "correct horse battery"),
        ("config.yaml", "a: 1\npassword: correct horse battery\n", "correct horse battery"),
        ("value", "p@$$w0rd!", "p@$$w0rd!"),
        ("regex_password", ".*(a+)+$|[", ".*(a+)+$|["),
        ("password", 'quo"te\\and\ttab', 'quo"te\\and\ttab'),
        ("password", "ünïcödé-wörd", "ünïcödé-wörd"),
        # base64 of base64.
        ("token", base64.b64encode(b"open-sesame-9").decode(), "open-sesame-9"),
    ],
)
def test_parts_and_spellings(key: str, value: str, words: str) -> None:
    masker = having_seen({"kind": "Secret", "data": {key: base64.b64encode(value.encode()).decode()}})
    texts = [words, json.dumps({"x": words}), json.dumps(json.dumps({"x": words})), repr(words), f"is: {words}"]
    for text, shown in zip(texts, masker.mask(texts), strict=True):
        assert MASK in shown, text
        assert words not in shown


def test_an_object_that_the_server_quotes_in_its_answer_is_masked_and_learned() -> None:
    """As kube-apiserver refuses a patch: with the whole object, whose other values nobody has seen yet."""
    patched = {
        "apiVersion": "v1",
        "data": {"old_password": "b3Blbi1zZXNhbWUtOQ==", "a": 5},
        "kind": "Secret",
        "stringData": {"b": 'x"&y<z'},
    }
    go = json.dumps(patched).replace("&", r"\u0026").replace("<", r"\u003c")
    status = {"kind": "Status", "message": f" is invalid: patch: Invalid value: {json.dumps(go)}: json: no", "code": 422}
    event = {
        "event_data": {"res": {"msg": f"Failed to patch object: {json.dumps(status)}"}},
        "stdout": "password open-sesame-9",
    }
    masked = Masker().mask_json(json.dumps(event))
    assert "is invalid: patch" in masked
    assert not any(word in masked for word in ("b3Blbi1z", "open-sesame", "y\\u003cz", "003cz"))


def test_hostile_secrets_are_masked_all_the_same() -> None:
    """Many, large and alike; that it ends at all shows that nothing of it is compared with everything."""
    large = "aB3" * 300_000
    masker = having_seen(
        secret(**{f"k{number}": f"aaaaaa{number}Zz!" for number in range(20_000)}, large=large, token="a" * 100_000)
    )
    text = "aaaaaa7Zz! " + "a" * 100_000 + " " + large + " ok"
    assert masker.mask(text) == f"{MASK} {MASK} {MASK} ok"
    assert having_seen(secret(password="changeme")).mask("/changeme" * 100_000) == f"/{MASK}" * 100_000
    lines = "\n".join(f"password{number}='" for number in range(50_000))
    assert having_seen(secret(**{"x.conf": lines, "token": "[" * 100_000, "j": "{" * 100_000})).mask("fine") == "fine"


def test_of_a_value_with_more_random_words_than_files_have_a_bounded_number_is_looked_for() -> None:
    words = [base64.b64encode(f"{number:012} a word".encode()).decode() for number in range(5000)]
    text = " ".join([*words, "password=open-sesame"])
    masker = having_seen(secret(x=text))
    assert masker.mask(["open-sesame", words[0], words[-1], f"is {text}"]) == [MASK, MASK, words[-1], f"is {MASK}"]


def test_aliases_of_yaml_are_looked_at_once() -> None:
    levels = "\n".join(f"l{n}: &l{n} [{', '.join([f'*l{n - 1}'] * 9)}]" for n in range(1, 40))
    text = f"kind: Secret\nstringData: {{password: open-sesame}}\nl0: &l0 [x]\n{levels}\n"
    masker = having_seen({"definition": text})
    assert masker.mask("open-sesame") == MASK
