"""Common English words, to recognise English and to leave its grammar words out of counts."""

_FUNCTION = """
a an the this that these those each every either neither both all any some no none such other another
i me my mine myself you your yours yourself yourselves he him his himself she her hers herself it its itself
we us our ours ourselves they them their theirs themselves who whom whose which what
about above across after against along among around as at before behind below beneath beside between beyond by
despite down during except for from in inside into like near of off on onto out outside over past per since through
throughout till to toward towards under until unto up upon via with within without
and but or nor so yet if than then though although because while whereas whether unless when where why how
am is are was were be been being do does did done doing have has had having
can could may might must shall should will would ought cannot
not there here very too also just only even ever never
don't doesn't didn't isn't aren't wasn't weren't haven't hasn't hadn't won't wouldn't can't couldn't shouldn't
i'm you're he's she's it's we're they're i've you've we've they've i'll you'll he'll she'll it'll we'll they'll
i'd you'd he'd she'd we'd they'd that's there's what's who's let's
"""

FUNCTION_WORDS = frozenset(_FUNCTION.split())
"""Closed word classes: determiners, pronouns, prepositions, conjunctions, auxiliary verbs, contractions, particles."""

_CONTENT = """
time year day night week month people man woman child mother father brother sister friend house home room door
window street city country world water fire earth sky sun moon star tree flower leaf bird dog cat horse fish bread
meat milk salt sugar hand foot head eye ear mouth heart blood body life death love war peace work money school book
letter word language question answer king queen doctor teacher
red green white black yellow big large little young new old good bad beautiful cold early strong heavy
go come see know think give take find tell ask feel leave call speak write read eat drink sleep buy sell
one two three four five seven eight nine hundred
"""

CONTENT_WORDS = frozenset(_CONTENT.split())
"""Open-class words that hardly any lexicon lacks and few other languages spell alike."""
