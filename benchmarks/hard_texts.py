# ruff: noqa: RUF001  # letters that look like others are the point
"""Texts that break tokenizers and offsets, alone and spliced into real ones; the same for the same seed."""

from __future__ import annotations

import random
from collections.abc import Sequence

Single = tuple[str, str]
"""Where a text comes from, and the text."""
Pair = tuple[str, tuple[str, str]]

HARD = {
    "empty": "",
    "blank": "   ",
    "tab alone": "\t",
    "line feeds alone": "\n\n\r\n",
    "tabs": "name\tRome\tdate\t\t2024-05-06\t",
    "lines": "First line about Oslo\nsecond line\n\nfourth, of Ada Lovelace\n",
    "CRLF": "Dear Anna,\r\n\r\nsee you in Paris.\r\nBob\r\n",
    "old line ends": "one\rtwo\x0bthree\x0cfour\x85five\u2028six\u2029seven",
    "emoji": "Party 🎉🎂 in Berlin 🇩🇪 tonight 😀😀😀!",
    "emoji alone": "😀",
    "emoji joined": "👩‍🚀 meets 👨‍👩‍👧‍👦 and 🧑🏽‍🤝‍🧑🏻 at NASA 🏳️‍🌈",
    "flags": "🇯🇵🇧🇷 beat 🇫🇷; 🏴󠁧󠁢󠁥󠁮󠁧󠁿 lost to 🇺🇸",
    "skin tones and keycaps": "👍🏿👍🏻 press 1️⃣ or #️⃣ for ☎️",
    "combining marks": "Cafe\u0301 Zu\u0308rich: na\u0131\u0308ve re\u0301sume\u0301 of Sm\u0131th",
    "marks in a heap": "Z\u0351\u036b\u0343\u036a\u0302\u036b\u033d\u034f\u0334\u0319\u0324\u031ea\u0349l\u0353g\u0321",
    "mark alone": "\u0301",
    "marks first": "\u0301\u0302 after nothing",
    "composed accents": "Ångström, Łódź, Đặng Thị, Škoda, São Tomé",
    "letters that grow in lower case": "İstanbul and İzmir; ẞ, ǅ, ﬁne ﬂow, ŉ, Ⅷ, ½",
    "compatibility forms": "\uff21\uff22\uff23 \uff11\uff12 ① ㎏ ㍿ ℡ 𝒜𝓁𝑔𝑒𝒷𝓇𝒶 𝟙𝟚",
    "Chinese": "昨天张伟从北京飞往上海，参加了联合国会议。",
    "Chinese with English": "我在Google上海office工作since2019年",
    "rare ideographs": "𠮷野家で𩸽を食べる 𪚥",
    "Japanese": "東京タワーでカタカナとﾊﾝｶｸを読む、田中さん。",
    "Korean": "서울에서 김철수 씨가 \u1112\u1161\u11ab\u1100\u1173\u11af 공부합니다",
    "Thai": "ฉันชอบกินข้าวผัดที่กรุงเทพมหานครน้ำ",
    "Arabic": "سافر محمد إلى القاهرة يوم الأحد، مُحَمَّد",
    "Hebrew": "שָׁלוֹם עולם מירושלים",
    "both directions": "He said \u202bשלום\u202c to \u2067محمد\u2069 in Haifa",
    "Devanagari": "नरेंद्र मोदी नई दिल्ली में क्षत्रिय",
    "Tamil and Burmese": "சென்னை ரஜினிகாந்த் ရန်ကုန်မြို့",
    "Cyrillic and Greek": "Владимир в Москве, Αθήνα και Θεσσαλονίκη",
    "zero width": "New\u200bYork\u200c and\u200d Los\u2060Angeles\ufeff end",
    "zero width alone": "\u200b",
    "byte order mark first": "\ufeffLondon calling",
    "soft hyphens": "Do\u00adnau\u00addampf\u00adschiff from Vi\u00adenna",
    "no-break spaces": "10\u00a0000\u202fkm from\u00a0San\u00a0Francisco\u3000today\u2003now",
    "controls": "a\x00b\x01c \x07bell\x1b[31mred\x7f \x9fend in Rome",
    "control alone": "\x00",
    "replacement and private": "\ufffd\ufffd \ue000\uf8ff \U000f0000 of Madrid \uffff",
    "lone surrogate": "half an emoji \ud83d in Lisbon",
    "low surrogate": "\udc00",
    "surrogates the wrong way": "\udd25\ud83d fire",
    "full stop": ".",
    "lone punctuation": "?!... --- ,,, ''' \"\"\" ;;; ()[]{}",
    "hyphens and quotes": "O'Neil’s “well-known” state-of-the-art—café‐bar … ‘Oslo’",
    "digits": "0123456789 3.14159 1,000,000.00 1e-10 0xDEADBEEF 2024-05-06T07:08:09Z",
    "addresses": "https://user:pw@www.example.com:8080/a/b?q=1&r=%20#top or mailto:ada@example.org",
    "handles": "@ada_l RT @Bob99: #NewYork #ootd lol... $TSLA :-) <3 w/ u2",
    "mark-up": '<p class="x">Tom &amp; Jerry&nbsp;in <b>Rome</b></p><!-- no --><br/>',
    "JSON": '{"city": "Paris", "n": [1, 2.5e3, null], "s": "\\u00e9\\n"}',
    "code": "for (int i=0;i<n;++i){x[i]*=2;} // C:\\Temp\\new",
    "special tokens": "[CLS] Anna [SEP] lives [MASK] in [PAD] Rome [UNK] <s> </s> <pad> <mask> <unk>",
    "special tokens in pieces": "[ CLS ] [SE P] ##ing ## [sep] [MASK",
    "upper case": "ANGELA MERKEL VISITED NEW YORK CITY",
    "mixed case": "iPhone eBay mcDonald LaTeX hElLo wOrLd",
    "spaces everywhere": "  New   York    City  ,   NY  ",
    "one letter": "x",
    "one long word": "a" * 10_000,
    "long word with marks": "e\u0301" * 5_000,
    "long word with hyphens": "ab-" * 3_333,
    "ten thousand ideographs": "京都大学" * 2_500,
    "a word at the limit": "b" * 100 + " " + "c" * 101 + " Rome",
    "a thousand line feeds": "\n" * 1_000 + "Rome",
    "a thousand emoji": "🎉" * 1_000,
    "half of everything": "".join(chr(c) for c in range(0x20, 0x3000, 7)),
}
SPLICES = 5
"""How often each hard text goes into a real one; those of thousands of characters once."""
LONG = 3_000


def singles(real: Sequence[str], count: int, seed: int) -> list[Single]:
    """`count` texts: each hard one alone and within real ones, and real ones; fewer if `real` ends."""
    rng = random.Random(seed)
    hard = HARD | {"three thousand words": _words(real, 3_000, rng)}
    found = [(f"hard: {name}", text) for name, text in hard.items()]
    for name, text in hard.items():
        times = SPLICES if len(text) < LONG else 1
        found += [(f"spliced: {name}", _spliced(rng.choice(real), text, rng)) for _ in range(times)]
    drawn = rng.sample(list(real), min(len(real), max(0, count - len(found))))
    return (found + [("real", text) for text in drawn])[:count]


def pairs(real: Sequence[tuple[str, str]], count: int, seed: int) -> list[Pair]:
    """The same of pairs: hard as first, as second and as both, spliced into either, and real ones."""
    rng = random.Random(seed)
    hard = HARD | {"three thousand words": _words([b for _, b in real], 3_000, rng)}
    found: list[Pair] = []
    for name, text in hard.items():
        first, second = rng.choice(real)
        found += [(f"hard first: {name}", (text, second)), (f"hard second: {name}", (first, text))]
        found.append((f"hard both: {name}", (text, text)))
        for _ in range(SPLICES - 2 if len(text) < LONG else 1):
            first, second = rng.choice(real)
            found.append((f"spliced second: {name}", (first, _spliced(second, text, rng))))
        first, second = rng.choice(real)
        found.append((f"spliced first: {name}", (_spliced(first, text, rng), second)))
    drawn = rng.sample(list(real), min(len(real), max(0, count - len(found))))
    return (found + [("real", pair) for pair in drawn])[:count]


def _spliced(text: str, hard: str, rng: random.Random) -> str:
    """The hard text between words, before, behind, or in the middle of a word."""
    place = rng.choice([0, len(text), rng.randint(0, len(text)), text.find(" ") + 1])
    gap = rng.choice(["", " "])
    return text[:place] + gap + hard + gap + text[place:]


def _words(real: Sequence[str], count: int, rng: random.Random) -> str:
    words: list[str] = []
    while len(words) < count:
        words += rng.choice(real).split() or ["word"]
    return " ".join(words[:count])
