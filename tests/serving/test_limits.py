"""What a request may ask for (row 77)."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prealign_cpt.serving.limits import FIELDS, Limits, RefusedError, check_body, parse

LIMITS = Limits(rows=403, max_model_len=128)
COMPLETIONS, CHAT, EMBEDDINGS = FIELDS


def refused(path: str, **body: Any) -> str:
    with pytest.raises(RefusedError) as caught:
        check_body(path, body, LIMITS)
    assert caught.value.status == 400
    return str(caught.value)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (COMPLETIONS, {"prompt": "Der Hund"}),
        (COMPLETIONS, {"prompt": ["a", "b"], "n": 16, "max_tokens": 128, "logprobs": 20, "stop": ["\n"] * 16}),
        (COMPLETIONS, {"prompt": [0, 402], "echo": True, "logprobs": 0, "max_tokens": 0, "return_token_ids": True}),
        (COMPLETIONS, {"prompt": [[0], [1, 2]], "temperature": 1.5, "seed": -1, "stream": True, "stop": None}),
        (COMPLETIONS, {"prompt": "x", "stream": True, "stream_options": {"include_usage": True}}),
        (CHAT, {"messages": [{"role": "user", "content": "x"}], "logprobs": True, "top_logprobs": 20}),
        (EMBEDDINGS, {"input": [[1, 2], [3]], "encoding_format": "base64", "model": "tiny"}),
        (EMBEDDINGS, {"input": "text", "user": "me"}),
    ],
)
def test_accepted(path: str, body: dict[str, Any]) -> None:
    check_body(path, body, LIMITS)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"max_tokens": 129}, "max_tokens: an integer from 0 to 128"),
        ({"max_tokens": 1e9}, "max_tokens: an integer"),
        ({"max_tokens": 10**9}, "max_tokens: an integer"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"max_tokens": "5"}, "max_tokens"),
        ({"max_tokens": True}, "max_tokens"),
        ({"n": 1000}, "n: an integer from 1 to 16"),
        ({"n": 0}, "n: an integer"),
        ({"prompt": ["x"] * 64, "n": 5}, "at most 256 sequences"),
        ({"prompt": ["x"] * 65}, "a list of 1 to 64"),
        ({"logprobs": 10**6}, "logprobs: an integer from 0 to 20"),
        ({"prompt_logprobs": 21}, "prompt_logprobs"),
        ({"prompt": ""}, "not empty"),
        ({"prompt": []}, "a list of 1 to 64"),
        ({"prompt": [[]]}, "not empty"),
        ({"prompt": ["x", ""]}, "not empty"),
        ({"prompt": [[1], "x"]}, "of one kind"),
        ({"prompt": {"prompt": "x"}}, "prompt: text"),
        ({"prompt": [403]}, "403 at position 0 is no id from 0 to 402"),
        ({"prompt": [1, -1]}, "-1 at position 1"),
        ({"prompt": [[1], [2, 10**30]]}, "at position 1"),
        ({"prompt": [1, 2.0]}, "2.0 at position 1"),
        ({"prompt": [1, True]}, "True at position 1"),
        ({"prompt": [1, None]}, "None at position 1"),
        ({"prompt": [0] * 129}, "at most 128 fit"),
        ({"prompt": None}, "prompt: missing"),
        ({"temperature": float("nan")}, "temperature: a number from 0 to 2"),
        ({"temperature": 1e300}, "temperature"),
        ({"stop": ["x"] * 17}, "at most 16 texts"),
        ({"stop": "x" * 257}, "at most 256 characters"),
        ({"stop": [1]}, "stop"),
        ({"stop_token_ids": [403]}, "403 at position 0"),
        ({"stream": 1}, "true or false"),
        ({"stream_options": {"other": 1}}, "only include_usage"),
        ({"model": ["tiny"]}, "model: a text"),
        ({"prompt_embeds": "gASV"}, "'prompt_embeds': this field is not accepted"),
        ({"structured_outputs": {"regex": "(a+)+"}}, "not accepted"),
        ({"response_format": {"type": "json_schema"}}, "not accepted"),
        ({"logit_bias": {}}, "not accepted"),
        ({"kv_transfer_params": {}}, "not accepted"),
        ({"cache_salt": "x"}, "not accepted"),
        ({"use_beam_search": True}, "not accepted"),
        ({"x" * 1000: 1}, f"'{'x' * 60}'"),
    ],
)
def test_refused(body: dict[str, Any], message: str) -> None:
    assert message in refused(COMPLETIONS, **{"prompt": "x", **body})


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"messages": []}, "1 to 256 messages"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "both text"),
        ({"messages": [{"role": "user"}]}, "both text"),
        ({"messages": ["x"]}, "both text"),
        ({"messages": [{"role": "user", "content": "x", "tool_calls": []}]}, "both text"),
        ({"chat_template": "{{ x }}"}, "not accepted"),
        ({"tools": []}, "not accepted"),
        ({"mm_processor_kwargs": {}}, "not accepted"),
        ({"messages": None}, "messages: missing"),
    ],
)
def test_refused_chat(body: dict[str, Any], message: str) -> None:
    assert message in refused(CHAT, **{"messages": [{"role": "user", "content": "x"}], **body})


def test_refused_embeddings() -> None:
    assert "'messages': this field" in refused(EMBEDDINGS, input="x", messages=[])
    assert "float or base64" in refused(EMBEDDINGS, input="x", encoding_format="bytes")
    assert "input: missing" in refused(EMBEDDINGS)


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"[]", "not a JSON object"),
        (b"1", "not a JSON object"),
        (b'{"prompt": "\xff"}', "not UTF-8 at byte 12"),
        (b'{"prompt": NaN}', "NaN is no JSON number"),
        (b'{"n": ' + b"9" * 5000 + b"}", "not JSON"),
        (b'{"a":' * 7 + b"1" + b"}" * 7, "nested more than 6 deep"),
        (b"[" * 100_000, "nested more than 6 deep"),
        (b'{"a":' * 100_000, "nested more than 6 deep"),
        (b'{"prompt": ' + b"[" * 50_000 + b"]" * 50_000 + b"}", "nested more than 6 deep"),
    ],
)
def test_what_is_no_request(raw: bytes, message: str) -> None:
    with pytest.raises(RefusedError, match=message) as caught:
        parse(raw)
    assert caught.value.status == 400


def test_the_last_of_equal_names_is_checked_and_passed_on() -> None:
    body = parse(b'{"prompt": "x", "n": 1, "n": 1000}')
    assert body == {"prompt": "x", "n": 1000} and "n: an integer" in refused(COMPLETIONS, **body)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=12,
)


@settings(max_examples=100, deadline=None)
@given(
    path=st.sampled_from(list(FIELDS)),
    body=st.dictionaries(
        st.sampled_from(sorted({"prompt", "input", "model", *FIELDS[COMPLETIONS], *FIELDS[CHAT]})), JSON
    ),
)
def test_any_json_is_accepted_or_refused(path: str, body: dict[str, Any]) -> None:
    try:
        check_body(path, parse(json.dumps(body).encode()), LIMITS)
    except RefusedError as error:
        assert error.status == 400 and len(str(error)) < 400
