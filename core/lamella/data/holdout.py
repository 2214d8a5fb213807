"""Which of the labelled images are held out for the test, and which unlabelled ones show the same as they do."""

from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from lamella.data.duplicates import near_duplicates
from lamella.data.survey import Survey, name_groups


@dataclass(frozen=True)
class HeldOut:
    """The stems of the test images, and in words how they were chosen."""

    test: set[str]
    rule: str


def hold_out(found: Survey, shows: Mapping[str, AbstractSet[str]] | None = None) -> HeldOut:
    """About a fifth of the labelled images: whole groups where the file names show any, else every fifth.

    Rather those that show every class, and leave every class to training, where there are such.

    An image that shows the same as one that is trained on would make figures too good and stays in training, with its
    whole group where another group is left. Where that leaves none, others are chosen.

    Args:
        shows: the classes that each mask shows, by stem.
    """
    test, rule = _fifth(found.labelled, {} if shows is None else shows)
    likes = [alike & set(found.labelled) for alike in found.alike()]
    moved = {stem for alike in likes if alike - test for stem in alike & test}
    if moved and not test - moved:
        return _without_likes(found.labelled, likes) or HeldOut(test, f"{rule}; beware: all show what others show too")
    groups = (set(members) for members in (name_groups(found.labelled) or {}).values())
    whole = moved.union(*(members & test for members in groups if members & moved))
    moved = whole if test - whole else moved
    if not moved:
        return HeldOut(test, rule)
    return HeldOut(test - moved, f"{rule}; {', '.join(sorted(moved))} left to training, where their like is")


def _without_likes(stems: Sequence[str], likes: Sequence[set[str]]) -> HeldOut | None:
    """About a fifth of them, groups or else images that are like no other; None where every one has its like."""

    def alone(parts: Iterable[set[str]]) -> list[set[str]]:
        return [part for part in parts if not any(alike & part and alike - part for alike in likes)]

    wanted = max(1, round(len(stems) / 5))
    for parts, what in (
        (map(set, (name_groups(stems) or {}).values()), "groups, by the beginning of the file name, of"),
        (({stem} for stem in stems), "single"),
    ):
        test: set[str] = set()
        for part in sorted(alone(parts), key=len):
            test |= part if len(test) < wanted else set()
        if test:
            return HeldOut(test, f"{what} images that are like no image trained on")
    return None


def shown_in(test: set[str], found: Survey, extra: Survey) -> set[str]:
    """The stems of the images of ``extra`` that show what a test image shows: no training may read those."""
    held = sorted(test)
    stems = list(extra.thumbnails)
    pairs = near_duplicates([*(found.thumbnails[stem] for stem in held), *extra.thumbnails.values()])
    return {stems[pair.second - len(held)] for pair in pairs if pair.first < len(held) <= pair.second}


def _fifth(stems: Sequence[str], shows: Mapping[str, AbstractSet[str]]) -> tuple[set[str], str]:
    wanted, grouped = max(1, round(len(stems) / 5)), name_groups(stems)
    if grouped is None:
        apart = len(stems) // wanted
        fifths = [set(stems[first::apart][:wanted]) for first in range(apart)]
        test = next((fifth for fifth in fifths if _whole(fifth, stems, shows)), fifths[0])
        return test, "every fifth image; the file names show no groups"
    test = set()
    names: list[str] = []
    for name, members in sorted(
        grouped.items(), key=lambda item: (not _whole(set(item[1]), stems, shows), len(item[1]), item[0])
    ):
        if len(test) >= wanted or len(names) == len(grouped) - 1:
            break
        test |= set(members)
        names.append(name)
    return test, f"the group{'s' if len(names) > 1 else ''} {', '.join(names)}, by the beginning of the file name"


def _whole(part: set[str], stems: Sequence[str], shows: Mapping[str, AbstractSet[str]]) -> bool:
    """Whether a part, of half the images at most, shows every class that is shown at all, and so does what is left."""
    inside, outside = (
        {name for stem in stems if (stem in part) == within for name in shows.get(stem, ())} for within in (True, False)
    )
    return inside == outside and 2 * len(part) <= len(stems)
