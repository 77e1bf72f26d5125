"""Sentences for a benchmark without --data: varied English of 3 to 40 words."""

TEXTS: tuple[str, ...] = (
    "Not my taste.",
    "Simply wonderful work.",
    "I want a refund.",
    "The battery died again.",
    "Arrived early, nicely wrapped.",
    "Where is my order now?",
    "Great value for the money.",
    "This film left me cold.",
    "The soup was salty and lukewarm.",
    "She plays the violin like nobody else.",
    "Please cancel my subscription before next Monday.",
    "The update fixed nothing and broke the search.",
    "Our guide knew every stone of the castle.",
    "A slow start, but the ending is superb.",
    "Nobody at the desk could answer a simple question.",
    "The colours are brighter than in the photographs online.",
    "I have read it twice and will read it again.",
    "Trains were cancelled all morning because of the heavy snow.",
    "The keyboard feels solid, although the space bar rattles a little.",
    "He apologised, replaced the broken lamp and even paid the postage.",
    "For once the sequel is sharper and funnier than the original.",
    "My card was charged twice and the hotline keeps hanging up.",
    "The museum is small, but its collection of maps is remarkable.",
    "We waited an hour for a table that we had booked.",
    "Prices rose by two percent in May, less than economists had feared.",
    "The jacket keeps the rain out, yet it is far too warm indoors.",
    "An earnest, overlong drama that confuses shouting with passion and rain with meaning.",
    "Could you tell me whether the warranty also covers damage caused by water?",
    "The committee postponed its vote until the auditors have published their final report.",
    "After three weeks of daily use the hinge is loose and the screen flickers.",
    "They turned a dull waiting room into the friendliest place in the entire hospital.",
    "The recipe works, provided that you halve the sugar and double the baking time.",
    "Beautiful pictures, a clumsy script, and two actors who deserved a far better director.",
    "I ordered the blue one, received the green one, and now like it even better.",
    "The new bridge cuts the journey to the coast by almost forty minutes each way.",
    "Despite the glowing reviews, I found the plot predictable and the jokes older than me.",
    "The hotel is close to the station, quiet at night, and the breakfast is generous.",
    "Researchers found that the birds return to the same trees every spring, even after severe storms.",
    "I had expected a quiet weekend by the lake, but the neighbours brought a trumpet, three dogs and a "
    "generator, and by Sunday evening even the ducks had packed their things and moved to the other "
    "shore.",
    "The app is fast and tidy, but it forgets my settings whenever I switch to another phone.",
    "We chose the cheaper plan, and so far neither speed nor support has given us reason to complain.",
    "The orchestra rushed through the first movement as though the last tram were about to leave without them.",
    "What begins as a simple story about two brothers becomes a moving study of guilt, pride and forgiveness.",
    "The shoes look elegant and fit well, but after an hour on cobblestones my feet were begging for mercy.",
    "It took four calls, two letters and a visit to the branch before anyone admitted that the error was theirs.",
    "Although the contract promised a new kitchen within six weeks, it took the builders five months, "
    "two inspections and a lawyer's letter before the water ran again, and the drawers under the sink "
    "still refuse to open.",
    "Everything about this laptop is excellent except the fan, which starts to howl as soon as a video call begins.",
    "The author knows her subject thoroughly, yet she explains it so lightly that even the chapter on tax law is fun.",
    "Our room smelled of smoke, the window would not close, and the manager suggested that we should "
    "try sleeping with earplugs.",
    "Although the first half drags, the last thirty minutes are so tense that I forgot the popcorn in my lap.",
    "The city council has approved a plan to plant nine thousand trees along the ring road over the next five years.",
    "I bought this vacuum cleaner for a small flat with two cats, and it has not lost any suction in six months.",
    "The speaker answered every question with patience and wit, even the one from the man who had "
    "clearly slept through her talk.",
    "Setting up the printer took the whole evening because the manual describes a menu that has not "
    "existed for several versions.",
    "The performances are fine, the music is lovely, but the story asks us to believe that nobody in "
    "town owns a telephone.",
    "When the parcel finally arrived, the box was torn, the glass was cracked, and the note inside "
    "wished me a happy new year.",
    "The team controlled the match from the first minute, missed six clear chances, and then lost to "
    "the only shot that they allowed.",
    "I was ready to dislike this remake, yet its humour is gentle, its pace is right, and its villain "
    "is scarier than ever.",
    "The course is well organised and the videos are short, but the exercises jump from trivial to "
    "impossible without anything in between to practise on.",
    "Having stayed in many hostels over the years, I can say that this kitchen is the cleanest, and the "
    "people are the kindest, anywhere.",
    "The minister said that the new rules would protect small farms, while the opposition called them a "
    "gift to the largest landowners in the country.",
    "What I admire most is that the film never explains its heroine; it simply follows her through one "
    "long night and trusts us to understand.",
    "The tent survived two nights of storm without a single leak, but the poles are heavy, the bag is "
    "tight, and the pegs bend like butter.",
    "It is not a bad restaurant, and the fish was really fresh, but at these prices I expect a waiter "
    "who remembers what we ordered ten minutes ago.",
)


def pairs() -> list[tuple[str, str]]:
    """Pairs for tasks that read two texts: each sentence with the three that follow it."""
    return [(text, " ".join(TEXTS[i + 1 : i + 4])) for i, text in enumerate(TEXTS[:-3])]
