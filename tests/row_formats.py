"""Conversations as rows of each format, and read back."""

from learnable.data.formats import find_layout
from learnable.data.turns import as_turns


def read_row(row, name=None):
    return find_layout(row, format=name).read(row, set())


def _tools(conversation):
    return {"tools": conversation.tools} if conversation.tools else {}


def _messages(conversation):
    return {"messages": as_turns(conversation.messages), **_tools(conversation)}


def _sharegpt(conversation):
    names = {"user": "human", "assistant": "gpt", "system": "system", "tool": "observation"}
    turns = as_turns(conversation.messages)
    named = [{"from": names[turn.pop("role")], "value": turn.pop("content"), **turn} for turn in turns]
    return {"conversations": named, **_tools(conversation)}


def _alpaca(conversation):
    *system, asked, answer = (message.content for message in conversation.messages)
    return {"instruction": asked, "input": "", "output": answer} | ({"system": system[0]} if system else {})


def _prompt_completion(conversation):
    *prompt, answer = as_turns(conversation.messages)
    return {"prompt": prompt, "completion": [answer], **_tools(conversation)}


WRITTEN = {
    "messages": _messages,
    "sharegpt": _sharegpt,
    "alpaca": _alpaca,
    "prompt_completion": _prompt_completion,
}
