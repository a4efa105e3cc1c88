"""Which script and language a text is in, told by its letters and its most frequent small words; no model is asked."""

import re
from collections import Counter

SCRIPTS = {
    "Latin": r"A-Za-z\u00aa\u00ba\u00c0-\u024f\u1e00-\u1eff",
    "Cyrillic": r"\u0400-\u052f",
    "Greek": r"\u0370-\u03ff\u1f00-\u1fff",
    "Arabic": r"\u0600-\u06ff\u0750-\u077f",
    "Hebrew": r"\u0590-\u05ff",
    "Devanagari": r"\u0900-\u097f",
    "Bengali": r"\u0980-\u09ff",
    "Tamil": r"\u0b80-\u0bff",
    "Thai": r"\u0e00-\u0e7f",
    "Hangul": r"\u1100-\u11ff\uac00-\ud7af",
    "Japanese": r"\u3040-\u30ff",
    "Han": r"\u3400-\u9fff",
}
SMALL_WORDS = {
    "English": "a the of and to in is that it for was with as are this be on by at from or an which you have not they we can",
    "German": "der die und das ist nicht ein eine zu den mit von für auf sich dem im auch als wird oder sind werden ich sie wie",
    "French": "le la les des et est une dans que pour qui sur avec pas plus du au par sont ce vous nous il elle cette ou ne",
    "Spanish": "el la los las de que y en un una es por con para del se no más su como al lo pero son este está o",
    "Italian": "il di che la è e un una per non con sono del della in le gli si da dei come anche più questo nel al ma",
    "Portuguese": "o a os as de que e em um uma é para com não do da dos por mais se como ao mas foi são na no você",
    "Dutch": "de het een en van is dat op te niet met voor zijn aan er ook als maar om door bij wordt naar deze worden of",
    "Swedish": "och att det som en är på för av med till inte den har ett om kan de så eller från var vi jag när man",
    "Danish": "og at det som en er på for af med til ikke den har et om kan de så eller fra var vi jeg når man blev",
    "Norwegian": "og å det som en er på for av med til ikke den har et om kan de så eller fra var vi jeg når man ble",
    "Icelandic": "og að í á sem er það við til ekki um með en af hann hún var fyrir því þess þetta eru hafa verið sé þeir frá",
    "Finnish": "ja on ei se että hän oli mutta joka niin kun myös tai ovat kuin sen voi ole tämä mitä jos sitä ovat olla",
    "Polish": "i w na z nie się do to że jest jak o po od co za przez dla są tak ale jego może który oraz być by",
    "Czech": "a v na se je že to s z do o si jsem jako pro ale za byl by po jsou který která nebo než když od",
    "Hungarian": "a az és hogy nem egy is van meg ez de csak már volt vagy mint azt ki kell lehet ha még sem el",
    "Romanian": "de și la în a că nu o cu este pe un din care mai pentru sunt ca să se au fost sau fi ce",
    "Turkish": "ve bir bu da de için ile olarak çok olan daha gibi ne ama her en var olduğu sonra kadar o değil ya",
    "Indonesian": "yang dan di untuk dengan dari ini itu pada adalah dalam tidak akan ke oleh atau juga saya karena bisa anda",
    "Vietnamese": "là và của có không cho được một các với trong này những người để đã như khi tôi về từ hay thì",
}
_LETTERS = {name: re.compile(f"[{letters}]") for name, letters in SCRIPTS.items()}
_LANGUAGES = {
    word: [name for name, words in SMALL_WORDS.items() if word in words.split()]
    for word in " ".join(SMALL_WORDS.values()).split()
}
_WORD = re.compile(r"[^\W\d_]+")
FEWEST_LETTERS, FEWEST_HITS = 12, 3
MAIN_SCRIPT, MAIN_SHARE, LEAD = 0.6, 0.12, 1.5
"""Share of the letters of a script; of the words that are small words of a language; and times as many as of the next one."""
READ_CHARACTERS = 4_000
NORDIC = {"Danish", "Norwegian", "Swedish"}
"""Languages with so many small words in common that they need no lead before each other."""
_NAMED = re.compile(
    r"translat|\blanguages?\b|\b("
    + "|".join([*SMALL_WORDS, *SCRIPTS])
    + r"|Chinese|Korean|Hindi|Russian|Ukrainian|Bulgarian|Latin)\b",
    re.IGNORECASE,
)


def script_of(text: str) -> str:
    """Return the script that most letters of a text are of; "" for few letters or a mixture."""
    counts = {name: len(letters.findall(text[:READ_CHARACTERS])) for name, letters in _LETTERS.items()}
    total = sum(counts.values())
    if counts["Japanese"] and counts["Japanese"] + counts["Han"] > MAIN_SCRIPT * total:
        return "Japanese"
    name = max(counts, key=lambda each: counts[each])
    least = FEWEST_LETTERS if name == "Latin" else FEWEST_LETTERS // 3
    return name if total >= least and counts[name] > MAIN_SCRIPT * total else ""


def language_of(text: str) -> str:
    """Return the language of a text in Latin letters, else its script; "" where it cannot be told.

    It is the one with the most of its small words in the text: at least three of them, an eighth of all words, and half again as many as
    the next.

    Source: the small words method of Grefenstette (1995), Comparing Two Language Identification Schemes.
    """
    script = script_of(text)
    if script != "Latin":
        return script
    counts = Counter(word.lower() for word in _WORD.findall(text[:READ_CHARACTERS]))
    hits, kinds = Counter[str](), Counter[str]()
    for word, number in counts.items():
        for name in _LANGUAGES.get(word, ()):
            hits[name] += number
            kinds[name] += len(word) > 1
    first, *others = sorted(hits, key=lambda name: -hits[name]) or [""]
    others = [name for name in others if not {first, name} <= NORDIC]
    second = hits[others[0]] if others else 0
    enough = kinds[first] >= FEWEST_HITS and hits[first] >= MAIN_SHARE * counts.total()
    return first if enough and hits[first] >= LEAD * second else ""


def asks_for_a_language(question: str) -> bool:
    """Tell whether a question names a language or a translation, so that an answer in another one is no fault."""
    return bool(_NAMED.search(question))
