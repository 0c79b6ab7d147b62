"""The words of the synthetic English: what exists, how it inflects, and what means the same or the opposite.

Words are grouped by meaning so that tasks can swap a word for a synonym, a sibling or an opposite and know
the truth of the result.  Order matters: generators index into these tuples, so edits change every file.
"""

from __future__ import annotations

from dataclasses import dataclass

FEMALE = "anna alice emma clara diana fiona grace helen irene julia laura maria nina olga paula ruth"
MALE = "adam ben carl david eric frank george henry ivan jack kevin leo mark oscar peter simon"
NAMES = tuple(f"{FEMALE} {MALE}".split())

# category -> nouns; "a|b" marks synonyms, "sg/pl" an irregular plural.
_NOUNS = {
    "animal": "dog|hound cat|kitten horse|pony cow goat sheep/sheep pig|hog rabbit|bunny mouse/mice "
    "fox/foxes "
    "wolf/wolves bear lion tiger duck goose/geese chicken monkey camel snake|serpent",
    "person": "doctor|physician teacher|instructor lawyer|attorney child/children|kid man/men "
    "woman/women farmer|grower "
    "baker cook|chef nurse soldier|trooper singer|vocalist painter|artist student|pupil "
    "thief/thieves|robber "
    "king queen writer|author driver pilot sailor|seaman/seamen guard|sentry neighbor judge tailor",
    "food": "apple pear bread/breads soup|broth cake pie cheese salad sandwich/sandwiches "
    "cookie|biscuit pizza "
    "potato/potatoes tomato/tomatoes carrot sausage pancake egg onion",
    "tool": "hammer|mallet knife/knives|blade ladder rope|cord bucket|pail box/boxes|crate "
    "lamp|lantern clock key bag|sack "
    "basket brush/brushes bottle|flask shovel|spade saw needle stick|rod cup|mug plate|dish/dishes",
    "furniture": "chair|seat table|desk bed shelf/shelves|rack sofa|couch/couches bench/benches mirror "
    "carpet|rug",
    "vehicle": "car|automobile boat|ship truck|lorry/lorries bus/buses|coach/coaches bicycle|bike "
    "train plane|aircraft/aircraft "
    "wagon|cart",
    "clothing": "shirt hat|cap coat|jacket shoe dress/dresses|gown scarf/scarves belt glove",
    "place": "house|home garden|yard school market|bazaar forest|woods/woods river|stream "
    "church/churches|chapel bridge "
    "street|road office kitchen barn|stable hotel|inn museum library/libraries beach/beaches|shore "
    "village|hamlet castle|fortress/fortresses "
    "station park",
    "work": "film|movie book|novel song|tune play|drama story/stories|tale poem|verse painting|picture "
    "show concert "
    "speech/speeches|lecture game meal|dinner trip|journey",
    "document": "letter|note report|summary/summaries map|chart plan answer|reply/replies "
    "contract|treaty/treaties list result",
}
PARTS = (
    "plot",
    "acting",
    "ending",
    "music",
    "script",
    "pace",
    "cast",
    "service",
    "design",
    "sound",
    "style",
    "opening",
)

# base:past:participle; "|" marks synonyms.  The class says what kind of object the verb takes.
_VERBS = {
    "being": "chase|pursue follow|trail help|assist see:saw:seen|notice greet:greeted:greeted|welcome "
    "find:found:found|locate "
    "call|phone warn|alert push|shove blame|accuse teach:taught:taught|instruct protect|defend "
    "watch|observe "
    "scare|frighten trust remember|recall visit ignore|neglect invite surprise|amaze",
    "thing": "buy:bought:bought|purchase sell:sold:sold fix|repair carry clean|wash paint|color "
    "break:broke:broken|smash "
    "hide:hid:hidden|conceal move|shift lift|raise drop:dropped:dropped throw:threw:thrown|toss "
    "steal:stole:stolen "
    "borrow choose:chose:chosen|select take:took:taken|grab:grabbed:grabbed collect|gather "
    "examine|inspect measure "
    "draw:drew:drawn|sketch destroy|ruin pull|drag:dragged:dragged touch lose:lost:lost|misplace",
    "food": "cook|fry eat:ate:eaten|devour taste|sample serve order|request bring:brought:brought|fetch bake",
    "work": "read:read:read|study praise|commend describe|explain write:wrote:written|compose mention "
    "discuss|debate",
}
_INTRANS = (
    "sleep:slept:slept|nap:napped:napped run:ran:run|sprint laugh|giggle cry|weep:wept:wept jump|leap "
    "sing:sang:sung "
    "dance walk|stroll swim:swam:swum wait shout|yell smile|grin:grinned:grinned work|labor rest|relax "
    "fall:fell:fallen "
    "arrive leave:left:left|depart talk|chat:chatted:chatted listen play hurry|rush"
)

# Plain adjectives: "a|b" synonyms, "-" joins the two ends of a scale.
_PLAIN = (
    "big|large-small|little old|ancient-new|modern fast|quick-slow|sluggish tall|high-short|low "
    "heavy|weighty-light "
    "wet|damp-dry clean|spotless-dirty|filthy strong|powerful-weak|frail rich|wealthy-poor "
    "young-elderly hot|warm-cold|chilly "
    "loud|noisy-quiet|silent full-empty|vacant wide|broad-narrow hard|firm-soft bright-dark|dim "
    "thick-thin|slim calm|relaxed-angry|mad"
)
COLORS = ("red", "blue", "green", "yellow", "black", "white", "brown", "gray", "purple", "orange")
_GOOD_BAD = (
    "good|fine-bad|poor excellent|superb-terrible|awful wonderful|marvelous-horrible|dreadful "
    "great|terrific-lousy|rotten "
    "charming|delightful-nasty|unpleasant exciting|thrilling-boring|dull funny|amusing-tedious|tiresome "
    "brilliant|clever-stupid|foolish beautiful|lovely-ugly|hideous fresh|original-stale|tired "
    "smart|witty-silly|dumb "
    "impressive|remarkable-clumsy|feeble pleasant|enjoyable-painful|annoying "
    "heartfelt|tender-shallow|hollow "
    "perfect|flawless-flawed|faulty rewarding|satisfying-disappointing|frustrating"
)
_LIKE = (
    "love|adore-hate|detest enjoy-dislike like-loathe admire|respect-despise|scorn "
    "recommend|endorse-regret|condemn"
)
GOOD_NOUNS = ("triumph", "masterpiece", "success", "delight", "treasure", "gem", "pleasure", "winner")
BAD_NOUNS = ("failure", "disaster", "mess", "disgrace", "nightmare", "flop", "bore", "loser")

MANNER = (
    ("quietly", "silently"), ("quickly", "rapidly"), ("slowly", "gradually"), ("carefully", "cautiously"),
    ("happily", "cheerfully"), ("angrily", "furiously"), ("secretly",), ("proudly",), ("bravely",),
    ("suddenly",),
)  # fmt: skip
TIMES = {
    "past": (
        "yesterday",
        "last week",
        "last night",
        "on monday",
        "on friday",
        "in the morning",
        "two days ago",
    ),
    "present": ("today", "now", "at the moment", "this week"),
    "future": ("tomorrow", "next week", "on sunday", "next year", "soon", "tonight"),
}
FREQ = ("often", "always", "sometimes", "usually", "rarely")
DEGREE = ("very", "really", "quite", "extremely", "truly", "so", "rather", "absolutely")
PREPS = ("near", "in", "behind", "beside", "outside")
NUMBERS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")


@dataclass(frozen=True)
class Noun:
    """A noun: its two forms, its category and which meaning (synonym group) it names."""

    sg: str
    pl: str
    category: str
    group: int


@dataclass(frozen=True)
class Verb:
    """A verb with every form the grammar needs; ``group`` is shared by synonyms."""

    base: str
    third: str
    past: str
    part: str
    ing: str
    kind: str
    group: int


@dataclass(frozen=True)
class Adj:
    """An adjective on a scale: ``side`` 0 and 1 are opposite ends; equal (scale, side) means synonyms."""

    word: str
    scale: int
    side: int


def _es(base: str) -> str:
    if base.endswith(("s", "x", "ch", "sh", "z", "o")):
        return base + "es"
    if base.endswith("y") and base[-2] not in "aeiou":
        return base[:-1] + "ies"
    return base + "s"


def _verb(spec: str, kind: str, group: int) -> Verb:
    parts = spec.split(":")
    base = parts[0]
    if len(parts) == 3:
        past, part = parts[1], parts[2]
    elif base.endswith("e"):
        past = part = base + "d"
    elif base.endswith("y") and base[-2] not in "aeiou":
        past = part = base[:-1] + "ied"
    else:
        past = part = base + "ed"
    doubled = {"drop", "run", "swim", "grab", "drag", "nap", "chat", "grin"}
    if base == "see":
        ing = "seeing"
    elif base.endswith("e"):
        ing = base[:-1] + "ing"
    else:
        ing = base + (base[-1] if base in doubled else "") + "ing"
    return Verb(base, _es(base), past, part, ing, kind, group)


def _nouns() -> tuple[Noun, ...]:
    out: list[Noun] = []
    group = 0
    for category, text in _NOUNS.items():
        for entry in text.split():
            for word in entry.split("|"):
                sg, _, pl = word.partition("/")
                out.append(Noun(sg, pl or _es(sg), category, group))
            group += 1
    return tuple(out)


def _verbs(kinds: dict[str, str], start: int) -> tuple[Verb, ...]:
    out: list[Verb] = []
    for kind, text in kinds.items():
        for entry in text.split():
            out.extend(_verb(spec, kind, start) for spec in entry.split("|"))
            start += 1
    return tuple(out)


def _adjs(text: str) -> tuple[Adj, ...]:
    return tuple(
        Adj(word, scale, side)
        for scale, entry in enumerate(text.split())
        for side, end in enumerate(entry.split("-"))
        for word in end.split("|")
    )


NOUNS = _nouns()
TRANSITIVE = _verbs(_VERBS, 0)
INTRANSITIVE = _verbs({"none": _INTRANS}, 1000)
PLAIN = _adjs(_PLAIN)
OPINION = _adjs(_GOOD_BAD)  # side 0 is praise, side 1 is blame
LIKING = tuple(
    (_verb(word, "opinion", 2000 + i), side)
    for i, entry in enumerate(_LIKE.split())
    for side, end in enumerate(entry.split("-"))
    for word in end.split("|")
)
BY_CATEGORY: dict[str, tuple[Noun, ...]] = {c: tuple(n for n in NOUNS if n.category == c) for c in _NOUNS}
# What each class of verb may act on.
OBJECTS = {
    "being": ("animal", "person"),
    "thing": ("tool", "furniture", "vehicle", "clothing"),
    "food": ("food",),
    "work": ("work", "document"),
}
HYPERNYM = {
    "animal": ("animal", "animals"),
    "person": ("person", "people"),
    "food": ("food", "foods"),
    "tool": ("tool", "tools"),
    "furniture": ("thing", "things"),
    "vehicle": ("vehicle", "vehicles"),
    "clothing": ("garment", "garments"),
    "place": ("place", "places"),
}


def synonyms_of_noun(noun: Noun) -> tuple[Noun, ...]:
    """Other nouns with the same meaning."""
    return tuple(n for n in NOUNS if n.group == noun.group and n.sg != noun.sg)


def synonyms_of_verb(verb: Verb) -> tuple[Verb, ...]:
    """Other transitive or intransitive verbs with the same meaning."""
    return tuple(v for v in (*TRANSITIVE, *INTRANSITIVE) if v.group == verb.group and v.base != verb.base)


def synonyms_of_adj(adj: Adj, pool: tuple[Adj, ...] = PLAIN) -> tuple[Adj, ...]:
    """Other adjectives at the same end of the same scale."""
    return tuple(a for a in pool if (a.scale, a.side) == (adj.scale, adj.side) and a.word != adj.word)


def opposites_of_adj(adj: Adj, pool: tuple[Adj, ...] = PLAIN) -> tuple[Adj, ...]:
    """Adjectives at the other end of the same scale."""
    return tuple(a for a in pool if a.scale == adj.scale and a.side != adj.side)
