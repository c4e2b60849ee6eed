"""An answer of the backend as a chat completion of OpenAI's API, whole or in chunks."""

from __future__ import annotations

import itertools
import re
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final

from starlette.responses import Response

from moondream_station.core.facts.errors import BackendError, StationError
from moondream_station.http.functions import FunctionForm, event
from moondream_station.http.messages import json_response, openai_error, to_json

_TEXTS: Final = ("message", "answer", "caption", "content", "text")
"""Where an answer has its text."""
_OWN: Final = frozenset({"role", "content"})


@dataclass(slots=True, kw_only=True)
class ChatForm(FunctionForm):
    """Writes an answer as a chat completion, of as much text as was asked for."""

    streams_whole: ClassVar[bool] = True
    model: str
    prompt: str
    """The text that is answered, for `usage`."""
    stops: Sequence[str] = ()
    limit: int | None = None
    """In words: no text has fewer tokens, so this ends only what the backend did not limit itself."""
    includes_usage: bool = False
    id: str = field(default_factory=lambda: f"chatcmpl-{uuid.uuid4().hex}")
    created: int = field(default_factory=lambda: int(time.time()))
    text: str = ""
    length: int = 0
    """How much of the text is given out."""
    reason: str = ""
    rest: Mapping[str, Any] = field(default_factory=dict)

    def whole(self, answer: Mapping[str, Any]) -> Response:
        """A `chat.completion`."""
        extra = self._take_whole(answer)
        message = {"role": "assistant", "content": self.text[: self.length], **extra}
        choice = {"message": message, "logprobs": None}
        try:
            return json_response(self._said("chat.completion", choice, self.reason) | self._usage())
        except (TypeError, ValueError) as error:
            raise BackendError(f"The backend's answer can't be written as JSON: {error}") from error

    def streamed(self, answer: Mapping[str, Any]) -> bytes:
        """A whole answer as few chunks."""
        extra = self._take_whole(answer)
        content = {"content": self.text[: self.length]}
        return self._delta({"role": "assistant", "content": "", **extra}) + self._delta(content) + self.last()

    def progress(self, done: int, total: int | None, unit: str) -> bytes:
        """A comment: nothing in a chunk could say it."""
        return b": %b\n\n" % to_json({"done": done, "total": total, "unit": unit})

    def first(self, rest: Mapping[str, Any]) -> bytes:
        """Whose message it is, and the reasoning before it."""
        self.rest = rest
        return self._delta({"role": "assistant", "content": "", **_reasoning(rest)})

    def chunk(self, chunk: Any) -> bytes:
        """What of the text can be given out by now."""
        if not isinstance(chunk, str):
            raise BackendError(f"A chunk of the backend's answer is not text: {chunk!r:.80}")
        text = self._take(chunk)
        return self._delta({"content": text}) if text else b""

    def last(self) -> bytes:
        """What was kept back, and why the text ends here."""
        kept = "" if self.is_over else self.text[self.length :]
        self.length += len(kept)
        self.reason = self.reason or _reason(self.rest)
        end = self._delta({"content": kept} if kept else {}, self.reason)
        if self.includes_usage:
            end += event(self._said("chat.completion.chunk") | self._usage())
        return end + b"data: [DONE]\n\n"

    def failed(self, error: StationError) -> bytes:
        """The error, in OpenAI's form."""
        return event(openai_error(error))

    def _take_whole(self, answer: Mapping[str, Any]) -> dict[str, Any]:
        """Take an answer's text; gives what else its message has."""
        if answer.get("error"):
            raise BackendError(f"{answer['error']}")
        message = answer.get("message")
        source = message if isinstance(message, Mapping) else answer
        text = next((source[name] for name in _TEXTS if isinstance(source.get(name), str)), None)
        if text is None:
            raise BackendError(f"The backend's answer has no text: it has {', '.join(answer) or 'nothing'}")
        self._take(text)
        if not self.is_over:
            self.length = len(self.text)
        self.rest = answer
        self.reason = self.reason or _reason(answer)
        own = {} if source is answer else {key: source[key] for key in source.keys() - _OWN}
        return own | _reasoning(answer)

    def _take(self, piece: str) -> str:
        """Take a piece of the text; gives what can follow what was given out, up to where it must end."""
        self.text += piece
        end = len(self.text)
        if stops := [at for stop in self.stops if (at := self.text.find(stop)) >= 0]:
            end, self.reason = min(stops), "stop"
        else:
            end -= max((_begun(self.text, stop) for stop in self.stops), default=0)
        if self.limit:
            words = list(itertools.islice(re.finditer(r"\S+", self.text), self.limit + 1))
            if len(words) > self.limit and words[self.limit - 1].end() < end:
                end, self.reason = words[self.limit - 1].end(), "length"
        self.is_over = bool(self.reason)
        begin, self.length = self.length, max(self.length, end)
        return self.text[begin : self.length]

    def _delta(self, delta: Mapping[str, Any], reason: str | None = None) -> bytes:
        return event(self._said("chat.completion.chunk", {"delta": delta, "logprobs": None}, reason))

    def _said(
        self, kind: str, choice: Mapping[str, Any] | None = None, reason: str | None = None
    ) -> dict[str, Any]:
        choices = [] if choice is None else [{"index": 0, **choice, "finish_reason": reason}]
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "choices": choices,
        }

    def _usage(self) -> dict[str, Any]:
        """The backend's own count of tokens, or the number of words, as in a function's `_stats`."""
        if isinstance(usage := self.rest.get("usage"), Mapping):
            return {"usage": usage}
        prompt, completion = len(self.prompt.split()), len(self.text[: self.length].split())
        return {
            "usage": {
                "prompt_tokens": prompt,
                "completion_tokens": completion,
                "total_tokens": prompt + completion,
            }
        }


def _begun(text: str, stop: str) -> int:
    """How many characters at the end of a text may be the beginning of a stop sequence."""
    return next((size for size in range(len(stop) - 1, 0, -1) if text.endswith(stop[:size])), 0)


def _reason(answer: Mapping[str, Any]) -> str:
    reason = answer.get("finish_reason")
    return reason if isinstance(reason, str) and reason else "stop"


def _reasoning(answer: Mapping[str, Any]) -> dict[str, Any]:
    """The reasoning of a query, as the `moondream` client names it in a message."""
    match answer.get("reasoning"):
        case {"text": str(text), **details}:
            return {"reasoning": text, "reasoning_details": details}
        case str(text):
            return {"reasoning": text}
        case _:
            return {}
