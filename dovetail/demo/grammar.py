"""The words that the demo's dialogues are made of: names, topics, turns.

Three frames carry every dialogue. In a *plan* two people arrange something, in a *favour* one does
something for the other, in *news* one tells the other what happened. What a frame leaves open
is filled from its topic. ``{my}`` and ``{me}`` stand for the one who speaks: ``my`` and ``me`` in
the dialogue, ``Anna's`` and ``Anna`` in the summary. A digit after a slot's name asks for another
value of the same slot. Tables are tuples: their order is part of the corpus.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["PHRASES", "SCRIPTS", "SLOTS", "TOPICS", "Script", "Topic"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Topic:
    """What people can say on one topic.

    Attributes:
        name: The label.
        frame: Which turns it uses.
        title: Noun phrase that a title starts with.
        acts: Things to plan, ask for (infinitives) or tell of (past tense).
        whys: First-person reasons for a favour, or feelings about the news.
    """

    name: str
    frame: Literal["plan", "favour", "news"]
    title: str
    acts: tuple[str, ...]
    whys: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Script:
    """One way in which a frame can go.

    Attributes:
        outcome: The label.
        turns: Names of the phrases, one a turn, the speakers alternating.
        summary: What comes of it, with clauses in the third person.
    """

    outcome: str
    turns: tuple[str, ...]
    summary: str


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


TOPICS = (
    Topic(
        name="meeting",
        frame="plan",
        title="Meeting",
        acts=(
            "talk about {matter} at {place}",
            "finish {matter} at {place}",
            "look at {matter} together",
        ),
    ),
    Topic(
        name="food",
        frame="plan",
        title="Dinner",
        acts=("eat {dish} at {place}", "cook {dish} together", "try the {dish} at {place}"),
    ),
    Topic(
        name="film",
        frame="plan",
        title="Film night",
        acts=("watch a {genre} film at {place}", "see the new {genre} film"),
    ),
    Topic(
        name="sport",
        frame="plan",
        title="Sport",
        acts=("play {sport} at {place}", "practise {sport} together", "watch {sport} at {place}"),
    ),
    Topic(
        name="travel",
        frame="plan",
        title="Trip",
        acts=("go to {town} by {vehicle}", "visit {town}", "take the {vehicle} to {town}"),
    ),
    Topic(
        name="shopping",
        frame="favour",
        title="Shopping",
        acts=("buy some {food} and {food2}", "get {food} from the market", "pick up the {food}"),
        whys=("have no {food3} left", "am expecting guests", "am ill", "am too busy"),
    ),
    Topic(
        name="pets",
        frame="favour",
        title="Pet care",
        acts=("feed {my} {pet}", "look after {my} {pet}", "take {my} {pet} to the vet"),
        whys=("am flying to {town}", "have a long shift", "am staying in {town}", "am ill"),
    ),
    Topic(
        name="moving",
        frame="favour",
        title="Moving",
        acts=(
            "carry {my} {furniture}",
            "move {my} {furniture} to {town}",
            "pack {my} {furniture}",
        ),
        whys=("am moving to {town}", "have a bad back", "have a new flat", "need a strong friend"),
    ),
    Topic(
        name="repairs",
        frame="favour",
        title="Repair",
        acts=("fix {my} {machine}", "check {my} {machine}", "lend {me} a {tool}"),
        whys=("need the {machine2} soon", "am expecting guests", "have no {tool2}"),
    ),
    Topic(
        name="garden",
        frame="favour",
        title="Garden",
        acts=("water {my} {plant}", "plant some {plant}", "cut {my} {plant}"),
        whys=("am flying to {town}", "have a bad back", "am too busy", "have no {tool2}"),
    ),
    Topic(
        name="holiday",
        frame="news",
        title="Holiday",
        acts=("went to {town} by {vehicle}", "spent a week in {town}", "came back from {town}"),
        whys=("loved the {dish}", "missed the {vehicle2}", "met {friend} there", "lost a {thing}"),
    ),
    Topic(
        name="purchase",
        frame="news",
        title="New thing",
        acts=("bought a {thing}", "found a cheap {thing}", "ordered a {machine}"),
        whys=("paid {price} for it", "gave it to {friend}", "regret it", "love it"),
    ),
    Topic(
        name="work",
        frame="news",
        title="Work",
        acts=("got a job in {town}", "finished {matter}", "started at a {trade}"),
        whys=("earn {price} more", "am working with {friend}", "am happy", "am nervous"),
    ),
    Topic(
        name="accident",
        frame="news",
        title="Mishap",
        acts=("broke {my} {machine}", "dropped {my} {thing}", "lost {my} {thing}"),
        whys=("need {price} to replace it", "am angry", "blame {friend}", "am sad"),
    ),
)

SLOTS: dict[str, tuple[str, ...]] = {
    "name": _words(
        "Ada Amir Anna Ben Carla Chen Clara David Elena Emma Farah Finn Hana Hugo Ida Ivan Jonas "
        "Julia Karim Lena Leo Lucy Marco Maria Mila Nina Noah Nora Omar Paul Petra Rosa Sam Sara "
        "Sofia Tariq Tom Vera Yuki Zoe"
    ),
    "day": _words("Monday Tuesday Wednesday Thursday Friday Saturday Sunday"),
    "time": _words("six seven eight nine ten noon two three four five"),
    "place": (
        "the library", "the station", "the office", "the park", "the museum", "the harbour",
        "the school", "the café", "the club", "the old mill", "home", "the castle",
    ),
    "matter": (
        "the budget", "the report", "the website", "the contract", "the exam", "the project",
        "the wedding", "the festival", "the survey", "the speech",
    ),
    "dish": _words("pizza soup noodles curry tacos pancakes salad sushi dumplings stew"),
    "genre": _words("crime horror comedy science war love nature silent family dance"),
    "sport": _words("tennis football chess golf hockey cricket rugby cards darts squash"),
    "town": _words("Oslo Rome Paris Lisbon Vienna Dublin Prague Berlin Athens Madrid Cairo Lima"),
    "vehicle": _words("train bus ferry plane car bike tram"),
    "food": _words("bread milk cheese apples rice butter eggs coffee tea honey onions flour"),
    "pet": _words("dog cat rabbit parrot hamster turtle pony goat snake goldfish"),
    "furniture": _words("sofa bed desk piano wardrobe shelf table mirror boxes carpet"),
    "machine": _words("laptop phone heater radio printer oven fridge camera lamp clock"),
    "tool": _words("hammer drill ladder saw spade bucket pump torch"),
    "plant": _words("roses tomatoes tulips grass trees herbs beans lilies carrots"),
    "thing": _words("watch ring coat guitar tent bag hat violin scarf wallet"),
    "price": ("ten euros", "twenty euros", "forty euros", "fifty euros", "ninety euros"),
    "trade": _words("bank bakery hospital hotel theatre farm factory garage"),
}  # fmt: skip

PHRASES: dict[str, tuple[str, ...]] = {
    "hello": ("Hi {b}!", "Hello {b}.", "Hey {b},", "Good morning {b}.", "{b},"),
    "plan-ask": (
        "do you want to {act} on {day}?",
        "shall we {act} on {day}?",
        "how about we {act} on {day}?",
    ),
    "favour-ask": (
        "could you {act} on {day}?",
        "would you {act} on {day}?",
        "can you please {act} on {day}?",
    ),
    "news-tell": (
        "guess what, I {act} on {day}.",
        "I {act} on {day}.",
        "you know I {act} on {day}?",
    ),
    "time-question": ("Sure, at what time?", "Good idea. When?", "Yes, I am free. What time?"),
    "time-answer": ("At {time}.", "Say at {time}?", "Is {time} fine?"),
    "why-question": ("Why, what is up?", "Maybe. What for?", "Tell me why."),
    "why-answer": ("I {why}.", "Because I {why}.", "Well, I {why}."),
    "how-question": ("Really? And?", "Oh! How was it?", "Wow, tell me more."),
    "how-answer": ("I {why}.", "Well, I {why}.", "And I {why}."),
    "agree": ("Of course!", "Fine with me.", "Yes, I will.", "No problem."),
    "refuse": ("Sorry, I {excuse}.", "I can not, I {excuse}.", "No, I {excuse}."),
    "move": (
        "I {excuse} then. {day2}?",
        "Not {day}, I {excuse}. Could it be {day2}?",
        "Sorry, I {excuse}. Maybe on {day2}?",
    ),
    "moved": ("Fine, {day2} it is.", "{day2} is fine too.", "Then {day2}."),
    "pity": ("Too bad.", "What a pity.", "Never mind, next time."),
    "deal": ("Only if you {deal}.", "Yes, but then you {deal}.", "Will you {deal}?"),
    "dealt": ("It is a deal.", "Sure I will.", "Fair enough."),
    "wonder": ("That is great.", "I see.", "No way!", "Good to know."),
    "chat": (
        "By the way, {other} says hello.",
        "It is raining here.",
        "{other} told me about it.",
        "I am on the bus.",
        "My phone is almost dead.",
    ),
    "chat-answer": ("I see.", "Oh well.", "Thanks for telling me.", "Same here."),
    "thanks": ("Thanks a lot!", "Thank you, {b}.", "Great, thanks."),
    "bye": ("See you!", "Bye.", "Take care, {a}.", "Talk soon."),
    "known": ("I know, {other} told me.", "{other} told me already.", "So says {other}."),
    "oh": ("Oh, okay.", "Word gets around.", "Of course."),
    "excuse": (
        "have to work late", "am travelling", "have a dentist appointment", "am ill",
        "have a class", "need some rest", "have visitors", "am moving house",
    ),
    "deal-act": (
        "pay for lunch", "drive {me} home", "wash the dishes", "bring some {dish}",
        "lend {me} a {tool}", "feed the {pet}",
    ),
}  # fmt: skip

SCRIPTS: dict[str, tuple[Script, ...]] = {
    "plan": (
        Script(
            outcome="agreed",
            turns=("plan-ask", "time-question", "time-answer", "agree"),
            summary="{a} and {b} will {act} on {day} at {time}.",
        ),
        Script(
            outcome="moved",
            turns=("plan-ask", "move", "moved", "agree"),
            summary="{a} and {b} will {act} on {day2} because {b} {excuse} on {day}.",
        ),
        Script(
            outcome="declined",
            turns=("plan-ask", "refuse", "pity"),
            summary="{a} wants to {act} on {day} but {b} {excuse}.",
        ),
    ),
    "favour": (
        Script(
            outcome="agreed",
            turns=("favour-ask", "why-question", "why-answer", "agree"),
            summary="{b} will {act} on {day} because {a} {why}.",
        ),
        Script(
            outcome="declined",
            turns=("favour-ask", "why-question", "why-answer", "refuse", "pity"),
            summary="{b} will not {act} on {day} because {b} {excuse}.",
        ),
        Script(
            outcome="traded",
            turns=("favour-ask", "deal", "dealt"),
            summary="{b} will {act} on {day} if {a} {deal}.",
        ),
    ),
    "news": (
        Script(
            outcome="told",
            turns=("news-tell", "how-question", "how-answer", "wonder"),
            summary="{a} {act} on {day} and {why}.",
        ),
        Script(
            outcome="known",
            turns=("news-tell", "known", "oh"),
            summary="{b} knows from {other} that {a} {act} on {day}.",
        ),
    ),
}
