"""Forms in which a written answer claims a label, and what may take a claim back."""

import re

NOUN = (
    r"(?:answer|label|verdict|conclusion|prediction|classification|option|choice|class|category"
    r"|答案|标签|结论)"
)
PROPERTY = r"(?:sentiment|polarity|rating|stance|topic|genre|emotion|intent|result|output|情感)"
THING = (
    r"(?:reviews?|texts?|sentences?|statements?|comments?|tweets?|messages?|posts?|articles?"
    r"|passages?|paragraphs?|descriptions?|movie|film|pair|overall (?:sentiment|tone)|sentiment)"
)
PERSON = r"(?:reviewer|author|writer|speaker|customer|tone|language|wording|words?|phrases?)"
SURE = r"(?:(?:clearly|definitely|certainly|obviously)\s+)?"
THUS = r"(?:(?:so|thus|therefore|hence|overall),?\s+)?"
IS = r"(?:\s*[:=]\s*|\s*[-=]+>\s*|\s+[-–—]\s+|\s*是\s*|\s+(?:is|must be)\b\s*:?\s*)"
ITSELF = r"(?:(?:option|choice)\s+)?(?P<label>.+)"

FINAL = re.compile(rf"{THUS}(?:(?:the|my)\s+)?final\s+{NOUN}{IS}{SURE}{ITSELF}", re.IGNORECASE)
"""Holds against an earlier answer."""

MARKED = re.compile(
    rf"{THUS}(?:(?:the|my)\s+)?(?:(?:correct|right|best)\s+)?{NOUN}{IS}{SURE}{ITSELF}",
    re.IGNORECASE,
)
"""May stand behind reasons that name no other label as the answer."""

ALONE = re.compile(
    rf"{THUS}(?:(?:the|its)\s+)?(?:overall\s+)?{PROPERTY}(?:\s+of\s+(?:the|this)\s+{THING})?"
    rf"{IS}{SURE}{ITSELF}"
    rf"|my\s+{NOUN}\s+would\s+be\b\s*:?\s*(?P<mine>.+)"
    r"|(?:i\s+(?:choose|pick|select)|i'd\s+say|i\s+would\s+say|i'd\s+go\s+with)\b:?\s*"
    r"(?:option\s+)?(?P<chosen>.+)"
    r"|option\s+(?P<option>.+)"
    r"|(?:option\s+)?(?P<right>.+?)\s+is\s+(?:the\s+)?"
    rf"(?:(?:correct|right|best)(?:\s+{NOUN})?|answer)",
    re.IGNORECASE,
)
"""Counts at the start only."""

STATED = re.compile(
    rf"{THUS}(?:(?:the|this|these|both)\s+(?:two\s+)?{THING}|it|this|they)"
    rf"(?:\s+is|\s+are|'s|'re)\s+{SURE}(?:(?:classified|labell?ed|rated)\s+as\s+)?(?P<label>.+)"
    rf"|(?:an?\s+)?(?P<kind>.+?)\s+(?:sentiment|review)",
    re.IGNORECASE,
)
"""Likewise, of a label that is a word or a capital letter: "it is 4", "it is no" may mean more."""

STARS = re.compile(r"(?P<label>\d+)\s+stars?", re.IGNORECASE)

YES_NO = re.compile(
    r"(?P<yes>yes),\s+(?:it|they|this)\s+(?:is|are|does|do)"
    r"|(?P<no>no),\s+(?:it|they|this)\s+(?:(?:is|are|does|do)\s+not|(?:is|are|does|do)n't)",
    re.IGNORECASE,
)

OPTION = re.compile(r"(?P<label>\([^\W\d_]\)|[^\W\d_](?:[.)]|\s[-–—]))\s+(?P<rest>[^\n]{1,80})")
"""A letter and the text that it stands for."""

# ----------------------------------------------------------------- what may stand around a claim

REASON = re.compile(
    r"[,:]?\s+(?:[-–—]\s+)?(?=(?:because|since)\b)|(?::|\s[-–—])\s+(?=(?:the|this)\s)",
    re.IGNORECASE,
)
"""Where a reason begins within the sentence."""

EXPLAINS = re.compile(
    r"(?:(?:explanation|reason|reasoning|rationale)\s*:\s*)?"
    rf"(?:because|since|(?:the|this)\s+(?:{THING}|{PERSON}))\b",
    re.IGNORECASE,
)
"""How sentences behind a claim begin; any other may take it back."""

LEADS_TO = re.compile(rf"{EXPLAINS.pattern}|(?:options|choices)\s*:|sure!", re.IGNORECASE)
"""How sentences before a claim begin that is not final; any other may deny it."""

DOUBT = re.compile(
    r"\b(?:no|not|non|nor|neither|none|never|nothing|nope|nah|cannot|without|hardly|barely|scarcely"
    r"|rarely|seldom|few|little|zero|almost|nearly|half|partly|devoid|absen\w+|unlikely|unclear"
    r"|unsure|unable|impossible|opposite|contrary|lack\w*|false\w*|untrue|wrong\w*|incorrect\w*"
    r"|mistake\w*|error|except|excluding|unlike|than|instead|whether|if|either|unless|doubt\w*"
    r"|anything|far|fails?|less|but|however|although|though|actually|wait|hmm+|oops|sorry|correction"
    r"|rather|scratch|retract|revis\w+|reconsider\w*|second thoughts?|kidding|jok\w+|sarcas\w+"
    r"|iron\w+|maybe|perhaps|when|possibl[ey]|probably|might|may|depends"
    r"|(?:is|are|was|were|do|does|did|ca|wo|would)nt)\b|n't\b|[?≠¬~^]|!=|!(?=\w)|\d\s*%",
    re.IGNORECASE,
)
"""A second net, under the sentences whose words are free: reasons, and what stands before."""

SOMEBODY = re.compile(
    r"\b(?:suppose\w*|assum\w+|imagine|pretend|example|instance|e\.?g|format|template|say\w*|said"
    r"|would|wrote|writes?|replied|answered|claim\w*|think\w*|thought|believe\w*|students?|users?"
    r"|people|some\w*|others?|he|she|they|you|your|let me|let's|okay|ok|instructions?|prompt"
    r"|here|how|respond|reply|like|question|following|quot\w+)\b|[\"“”«»<>`|]|:$",
    re.IGNORECASE,
)
"""Before a claim: it may be an example, or somebody else's, or a step of thinking."""
