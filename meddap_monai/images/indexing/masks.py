"""Which files are drawings of an image and not images: `x_mask.png` beside `x.png`, or `masks/x.png` beside `x.png`.

Only names that pair are taken for masks; a lone file is an image, whatever it is called.
"""

import re

_WORD = r"(?:masks?|segs?|segmentations?|seg[ _-]?masks?|labels?|annotations?|annots?|contours?|gt|ground[ _-]?truths?)"
_BEHIND = re.compile(rf"(?:^|[ _.-]+|(?<=[\d)])){_WORD}(?:[ _.-]*\(?\d{{1,3}}\)?)?$", re.IGNORECASE)
_BEFORE = re.compile(rf"^{_WORD}[ _.-]+", re.IGNORECASE)
_MASK_FOLDER = re.compile(rf"(?:^|[ _.-]+){_WORD}$", re.IGNORECASE)
_IMAGE_WORD = re.compile(r"(?:^|[ _.-]+)(?:images?|imgs?)$|^(?:image|img)[ _.-]+", re.IGNORECASE)
_SUFFIX = re.compile(r"\.(?:nii\.gz|nii|dcm|dicom|ima|png|jpe?g|tiff?|bmp)$", re.IGNORECASE)


def pair_of(relative: str) -> tuple[str, bool]:
    """Return what an image and its masks have in common, and whether the name is that of a mask.

    Args:
        relative: path below the source, with forward slashes.

    Returns:
        The path without suffix and without what names a mask or an image ("" for other files), and True for a mask.
    """
    *folders, name = relative.split("/")
    suffix = _SUFFIX.search(name)
    if not suffix and "." in name:
        return "", False
    stem = name[: suffix.start()] if suffix else name
    bare = _BEHIND.sub("", _BEFORE.sub("", stem))
    bare_folders = [_MASK_FOLDER.sub("", folder) for folder in folders]
    parts = [_IMAGE_WORD.sub("", part) for part in (*bare_folders, bare)]
    return "/".join(filter(None, parts)).casefold(), bare != stem or bare_folders != folders
