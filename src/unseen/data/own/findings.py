"""Tables of the faults of a data set: every fault with its remedy and the test for it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from unseen.data.own.faults import Fault, Finding, Level
from unseen.data.own.ids import id_findings
from unseen.data.own.layout import LABEL_SUFFIXES, SPLITS, UNREAD, FolderContents
from unseen.data.own.survey import Colour, PairRecord, Survey


def find_faults(survey: Survey) -> list[Finding]:
    """The faults that reading the files has shown, single files first."""
    # In the order in which a person would correct them: wrong ids follow from unreadable maps, and
    # missing classes from wrong ids.
    findings = [finding for fault in FILE_FAULTS for finding in fault.findings(survey)]
    findings += id_findings(survey)
    for fault in (*SPLIT_FAULTS, *CLASS_FAULTS):
        findings += fault.findings(survey)
    return findings


# ------------------------------------------------------------------ single files


def _images_refused(survey: Survey) -> list[str]:
    return [record.image for record in survey.all_records if "image" in record.faults]


def _labels_refused(fault: str, survey: Survey) -> list[str]:
    return [record.labels for record in survey.all_records if fault in record.faults]


def _sizes_that_differ(survey: Survey) -> list[str]:
    # (0, 0): a file that could not be read is reported as that already.
    return [
        f"{record.labels} ({_as_text(record.label_size)}, its image {_as_text(record.size)})"
        for record in survey.all_records
        if (0, 0) not in (record.size, record.label_size) and record.size != record.label_size
    ]


def _as_text(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"


def _rotated(survey: Survey) -> list[str]:
    return [record.image for record in survey.all_records if record.rotated]


def _other_palettes(survey: Survey) -> list[str]:
    """Label maps that give an id another colour than those before them."""
    colour_of_id: dict[int, Colour] = {}
    different = []
    for record in survey.all_records:
        colours = record.colours.items()
        # The first colour that an id is seen with is the one that later label maps must give it.
        if any(colour_of_id.setdefault(value, colour) != colour for value, colour in colours):
            different.append(record.labels)
    return different


FILE_FAULTS = (
    Fault(
        "error",
        "images that cannot be read",
        "replace them, or leave them out",
        _images_refused,
    ),
    Fault(
        "error",
        "label maps that cannot be read",
        "make them again",
        partial(_labels_refused, "labels"),
    ),
    Fault(
        "error",
        "label maps saved as JPEG or WebP, which blur ids into their neighbours",
        "make them again as PNGs, from the ids; blurred ids cannot be restored",
        partial(_labels_refused, "lossy"),
    ),
    Fault(
        "error",
        "label maps that hold colours instead of ids",
        "replace every colour by its class's id, and save a grey or palette PNG with 8 bits",
        partial(_labels_refused, "colours"),
    ),
    Fault(
        "error",
        "label maps of another size than their image",
        "make them again at the image's size, with nearest-neighbour resizing",
        _sizes_that_differ,
    ),
    Fault(
        "warning",
        "images whose EXIF data ask for a rotation, which training and scoring do not apply, as"
        " masks belong to the stored pixels",
        "if masks were drawn on the rotated images, save those rotated and without the tag",
        _rotated,
    ),
    Fault(
        "warning",
        "label maps whose palettes give an id another colour than the others do, as happens when"
        " images of colours are saved with a palette each",
        "look at the sheet; if names do not fit objects, replace colours by ids and save those",
        _other_palettes,
    ),
)


# ----------------------------------------------- images of more than one split


def _in_both_splits(survey: Survey) -> list[str]:
    train = {record.pair.image for record in survey.records.get("train", [])}
    val = survey.records.get("val", [])
    return [record.image for record in val if record.pair.image in train]


# The same file in both splits is reported once, by `_in_both_splits`; the tests for copies and for
# equal names look at the other files.
def _other_files_of_val(survey: Survey) -> list[PairRecord]:
    """Records of validation whose image file is not in training."""
    both = set(_in_both_splits(survey))
    return [record for record in survey.records.get("val", []) if record.image not in both]


def _same_content(survey: Survey) -> dict[str, str]:
    """Images of validation with the pixels of a training image, and that training image."""
    # Pixels are compared by their hashes; images that cannot be read have none.
    by_digest: dict[str, str] = {}
    for record in survey.records.get("train", []):
        by_digest.setdefault(record.digest, record.image)
    return {
        record.image: by_digest[record.digest]
        for record in _other_files_of_val(survey)
        if record.digest and record.digest in by_digest
    }


def _hidden_copies(survey: Survey) -> list[str]:
    return [f"{image} = {other}" for image, other in _same_content(survey).items()]


def _same_name(survey: Survey) -> list[str]:
    """Images of validation with the name of a training image, but other pixels."""
    stems = {record.pair.image.stem for record in survey.records.get("train", [])}
    copies = _same_content(survey)
    return [
        record.image
        for record in _other_files_of_val(survey)
        if record.pair.image.stem in stems and record.image not in copies
    ]


def _repeated(split: str, survey: Survey) -> list[str]:
    """Images of a split with the pixels of an earlier one."""
    first: dict[str, PairRecord] = {}
    readable = [record for record in survey.records.get(split, []) if record.digest]
    return [
        f"{record.image} = {first[record.digest].image}"
        for record in readable
        if first.setdefault(record.digest, record) is not record
    ]


SPLIT_FAULTS = (
    Fault(
        "error",
        "images that are in training and in validation",
        "take them out of one of the two",
        _in_both_splits,
    ),
    Fault(
        "error",
        "images of validation that are in training under another name",
        "take them out of one of the two",
        _hidden_copies,
    ),
    Fault(
        "warning",
        "images of validation whose name is that of a training image with other content",
        "rename them",
        _same_name,
    ),
    *(
        Fault(
            "warning",
            f"images that are in {split} more than once",
            "keep one of each",
            partial(_repeated, split),
        )
        for split in SPLITS
    ),
)


# -------------------------------------------------------- classes without pixels


def _nothing_labelled(split: str, survey: Survey) -> bool:
    """Whether a split has images, but none of its classes has a pixel."""
    if not survey.records.get(split):
        return False
    pixels = survey.pixels(split)
    return not any(pixels[name] for name in survey.wanted[split])


def _never_shown(split: str, survey: Survey) -> list[str]:
    """Classes without a pixel, where others of the split have some."""
    # A split without any labelled pixel is one error, not a warning for every class.
    if not survey.records.get(split) or _nothing_labelled(split, survey):
        return []
    pixels = survey.pixels(split)
    return [name for name in survey.wanted[split] if not pixels[name]]


def _without_labels(split: str, survey: Survey) -> list[str]:
    """Readable label maps that show no class."""
    # Ids below `first_id` are a background; -1 stands for a map of ignored pixels alone.
    return [
        record.labels
        for record in survey.records.get(split, [])
        if record.label_size != (0, 0) and max(record.areas, default=-1) < survey.first_id
    ]


def _class_faults(split: str, use: str, missing: str) -> tuple[Fault, ...]:
    """The faults of a split whose label maps lack classes.

    Args:
        split: "train" or "val".
        use: What its classes are, in the message: "no pixel of train is labelled with ...".
        missing: The problem of classes without pixels.
    """
    return (
        Fault(
            "error",
            f"no pixel of {split} is labelled with {use}",
            "check label maps, classes.txt and splits",
            partial(_nothing_labelled, split),
        ),
        Fault(
            "warning",
            missing,
            "check their ids and spelling, or label some",
            partial(_never_shown, split),
        ),
        Fault(
            "warning",
            f"label maps of {split} without a labelled pixel",
            "label them or leave them out",
            partial(_without_labels, split),
        ),
    )


CLASS_FAULTS = (
    *_class_faults("train", "a class to train on", "seen classes that no training image shows"),
    *_class_faults(
        "val", "a class", "classes that no validation image shows, which cannot be scored"
    ),
)


# ------------------------------------------------------- the layout of a folder


def layout_findings(contents: FolderContents) -> list[Finding]:
    """The faults of your own folder that are known before its files are opened."""
    place = "labels/"
    if contents.nested:
        place = "labels/train or labels/val, as the image lies,"
    # Training refuses the first four as well (`own_pairs`), but names one file at a time.
    faults: tuple[tuple[Level, str, str, Sequence[object]], ...] = (
        (
            "error",
            UNREAD,
            "put all of them into images/train and images/val, or all into images/; their label"
            " maps likewise",
            contents.unread,
        ),
        (
            "error",
            "images without a label map",
            f"save it in {place} under the image's name ({LABEL_SUFFIXES[0]}), or remove the image",
            contents.unlabelled,
        ),
        (
            "error",
            "label maps that are no PNG or TIFF",
            "make them again as PNGs, from the ids; a JPEG has blurred them, and converting it does"
            " not help",
            contents.wrong_format,
        ),
        (
            "error",
            "names on lists without an image in images/",
            "correct the lists: one name a line, without suffix",
            contents.splits.unknown,
        ),
        (
            "warning",
            "label maps without an image, which are not used",
            "restore the image, or remove them",
            contents.unpaired,
        ),
    )
    findings = [
        Finding(level, problem, remedy, tuple(map(str, files)))
        for level, problem, remedy, files in faults
        if files
    ]
    for split, name, use in (("train", "training", "train on"), ("val", "validation", "score")):
        if not contents.pairs[split]:
            problem = f"there are no labelled images for {name} ({contents.splits.source})"
            findings.append(Finding("error", problem, f"add some to {use}"))
    return findings
