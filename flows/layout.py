"""How the pictures of a folder are named: which of its folders are classes, and which are splits."""

from collections.abc import Iterable

from tasks.modalities.image.archive import CLASS, SPLIT, SPLITS

ALIKE = {"training", "testing", "eval", "evaluation", "dev"} | set(SPLITS)
FORM = "put them into FOLDER/<class>/..., or into FOLDER/train/<class>/... with test and val beside it"
Parts = list[str]


def pattern(names: Iterable[str]) -> str:
    """Return the pattern by which `prepare` finds class and split of pictures, as in `{split}/{class}/*`.

    `names` are those of good pictures. `ValueError` where no folders can be classes.
    """
    inside, before = below([["", *name.split("/")] for name in names]), ""
    while folders := {parts[0] for parts in inside}:
        refuse_lookalikes(folders)
        refuse_lone_train(folders, inside)
        known = folders & SPLITS.keys()
        if len(known) > 1 or folders == {"train"}:
            return before + f"{SPLIT}/" + in_splits([parts for parts in inside if parts[0] in known])
        if len(folders) > 1:
            return before + in_classes(inside)
        before, inside = f"{before}*/", below(inside)
    found = "in one folder alone, but 2 classes are the least" if before else "in no class folders"
    raise ValueError(f"pictures lie {found}; {FORM}")


def refuse_lone_train(folders: set[str], names: list[Parts]) -> None:
    """Raise `ValueError` where `train` may be a split or a class: it has folders, but those beside it are no splits."""
    inner = {parts[1] for parts in names if parts[0] == "train" and len(parts) > 2}
    if len(inner) > 1 and len(folders) > 1 and folders & SPLITS.keys() == {"train"}:
        other = min(folders - {"train"})
        said = f"'train' seems to be a split, but {other!r} beside it is none"
        raise ValueError(f"{said}; move that elsewhere, or rename 'train' where it is a class")


def below(names: list[Parts]) -> list[Parts]:
    """Return what stands below the first folder of each name, of those that lie in a folder there."""
    return [parts[1:] for parts in names if len(parts) > 2]


def in_splits(names: list[Parts]) -> str:
    """Return the pattern below splits; a lone folder in each of them is passed over."""
    before, inside = "", names
    while inside := [parts for parts in inside if len(parts) > 2]:
        folders = {(parts[0], parts[1]) for parts in inside}
        alone = len(folders) == len({split for split, _ in folders})
        if not alone or all(len(parts) == 3 for parts in inside):
            return before + in_classes([parts[1:] for parts in inside])
        before, inside = f"{before}*/", [[parts[0], *parts[2:]] for parts in inside]
    raise ValueError(f"pictures lie in splits, but in no class folders; {FORM}")


def in_classes(names: list[Parts]) -> str:
    """Return the pattern from the class on: splits within classes, or files however deep."""
    second = {parts[1] for parts in names if len(parts) > 2}
    split = "train" in second and len(second) > 1 and second <= SPLITS.keys() and all(len(each) > 2 for each in names)
    deep = any(len(parts) > (3 if split else 2) for parts in names)
    return f"{CLASS}/" + (f"{SPLIT}/" if split else "") + ("**" if deep else "*")


def refuse_lookalikes(folders: set[str]) -> None:
    """Raise `ValueError` for folders that are meant as splits, it seems, but are not called so."""
    alike = sorted(name for name in folders if name.casefold() in ALIKE)
    wrong = [name for name in alike if name not in SPLITS]
    if len(alike) > 1 and wrong:
        raise ValueError(
            f"{' and '.join(map(repr, alike))} seem to be splits, which are called {', '.join(SPLITS)}; "
            f"rename {', '.join(map(repr, wrong))}"
        )
