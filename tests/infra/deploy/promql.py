"""Which metrics a PromQL expression reads, and whether its brackets close. Not a parser: enough to compare names."""

import re

_STRING = re.compile(r'"(?:[^"\\]|\\.)*"|\'(?:[^\'\\]|\\.)*\'')
_LABEL_LIST = re.compile(r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\(([^()]*)\)")
_NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
_WORDS = {"and", "or", "unless", "bool", "offset", "by", "without", "on", "ignoring", "group_left", "group_right"}
_PAIRS = {")": "(", "]": "[", "}": "{"}


def metric_names(expression):
    """Every metric in it.

    Raises:
        ValueError: a bracket is open or closed in vain.
    """
    text = _STRING.sub("", expression)
    _check_brackets(text)
    text = re.sub(r"\{[^}]*\}|\[[^\]]*\]", "", text)
    text = _LABEL_LIST.sub("", text)
    found = set()
    for match in _NAME.finditer(text):
        called = text[match.end() :].lstrip().startswith("(")
        part_of_number = match.start() and text[match.start() - 1].isdigit()
        if not called and not part_of_number and match.group() not in _WORDS:
            found.add(match.group())
    return found


def label_names(expression):
    """Every label it matches on or groups by."""
    text = _STRING.sub('""', expression)
    matched = re.findall(r"([a-zA-Z_]\w*)\s*(?:=~|!~|!=|=)\s*\"", text)
    grouped = [name.strip() for group in _LABEL_LIST.findall(text) for name in group.split(",")]
    return {name for name in (*matched, *grouped) if name}


def _check_brackets(text):
    open_ones = []
    for character in text:
        if character in "([{":
            open_ones.append(character)
        elif character in _PAIRS and (not open_ones or open_ones.pop() != _PAIRS[character]):
            raise ValueError(f"{character} closes nothing in: {text}")
    if open_ones:
        raise ValueError(f"{open_ones[-1]} stays open in: {text}")
