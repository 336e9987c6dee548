"""The rules for the files of a dataset: their severity, where they apply, and how to fix a fault.

An error is refused wherever the file is read: by checking, loading and evaluation alike. A warning
has a defined treatment, which is the same in all three. Faults that COCO 2017 or LVIS v1 are known
to contain are warnings.
"""

from collections.abc import Mapping
from dataclasses import dataclass

ERROR, WARNING, INFORMATION = "error", "warning", "information"
SEVERITIES = (ERROR, WARNING, INFORMATION)

ANNOTATIONS, PLAUSIBILITY, IMAGES = "annotation file", "check only", "image files"
APPLIES_TO = (ANNOTATIONS, PLAUSIBILITY, IMAGES)


@dataclass(frozen=True)
class Rule:
    """A rule that a dataset can break.

    Attributes:
        severity: One of ``SEVERITIES``.
        description: What breaks the rule.
        fix: What happens to the entry, if it is not refused, and what the user can do.
        applies_to: ``ANNOTATIONS`` if the rule holds wherever annotations are read, ``IMAGES`` if
            it needs the image files, ``PLAUSIBILITY`` if only a check looks for it.
    """

    severity: str
    description: str
    fix: str
    applies_to: str = ANNOTATIONS


RULES: Mapping[str, Rule] = {
    "missing_field": Rule(
        ERROR,
        "a required field that is missing or has another type",
        "add the field, with the type that the message names",
    ),
    "missing_area": Rule(
        WARNING,
        "an annotation without an area: evaluation needs it",
        "write the area of the mask, or of the box",
    ),
    "duplicate_id": Rule(ERROR, "an id that is used twice", "number the entries anew"),
    "duplicate_name": Rule(
        ERROR,
        "a name that two categories share",
        "merge the categories, or give one of them another name",
    ),
    "missing_name": Rule(
        WARNING, "a category without a name", "it is called by its id; add a name"
    ),
    "unknown_category": Rule(
        ERROR,
        "an annotation of a category that the file does not list",
        "list the category, or remove the annotation",
    ),
    "unknown_image": Rule(
        ERROR,
        "an annotation of an image that the file does not list",
        "list the image, or remove the annotation",
    ),
    "missing_image": Rule(
        ERROR, "an image file that does not exist", "correct the file name or the folder", IMAGES
    ),
    "unreadable_image": Rule(
        ERROR, "a file that cannot be read as an image", "replace or remove the image", IMAGES
    ),
    "truncated_image": Rule(ERROR, "a truncated image file", "replace the file", IMAGES),
    "wrong_size": Rule(
        ERROR,
        "an image whose size differs from the annotations",
        "write the height and width of the image, turned as its EXIF says",
        IMAGES,
    ),
    "sixteen_bit_image": Rule(
        ERROR,
        "16 bits a channel: cut to 8 when read, or clipped to white",
        "convert the image to 8 bits",
        IMAGES,
    ),
    "cmyk_image": Rule(
        WARNING,
        "CMYK: converted to RGB without its color profile when read",
        "convert the image to RGB",
        IMAGES,
    ),
    "not_finite": Rule(
        ERROR, "a number that is not finite, such as NaN", "correct or remove the entry"
    ),
    "zero_area_box": Rule(ERROR, "a box without width or height", "correct or remove the box"),
    "box_outside_image": Rule(
        ERROR, "a box entirely outside of the image", "correct or remove the box"
    ),
    "box_beyond_image": Rule(
        WARNING,
        "a box that reaches more than a pixel beyond the image",
        "it is clipped to the image in training; clip it in the file",
    ),
    "invalid_polygon": Rule(
        ERROR,
        "a polygon with fewer than three points, or an odd length",
        "correct or remove the polygon",
    ),
    "empty_segmentation": Rule(
        ERROR,
        "no segmentation, while other annotations have one",
        "add the mask, or remove the annotation",
    ),
    "invalid_rle": Rule(
        ERROR,
        "a run-length encoding that cannot be read or has another size",
        "encode the mask again, with the height and width of the image",
    ),
    "crowd": Rule(
        INFORMATION,
        "a crowd: not trained on, detections in it are not false",
        "set iscrowd to 0 if it is a single object",
    ),
    "shared_file": Rule(
        WARNING, "two images in the annotations with the same file", "merge the two images", IMAGES
    ),
    "category_without_images": Rule(
        WARNING,
        "a category that no image shows",
        "it is a class without training data; remove it if it is not needed",
        PLAUSIBILITY,
    ),
    "image_without_annotations": Rule(
        INFORMATION, "an image without annotations: not trained on", "nothing", PLAUSIBILITY
    ),
    "box_format": Rule(
        ERROR,
        "boxes in another format than x, y, width, height in pixels",
        "convert the boxes; --fix takes them from the masks, if there are some",
        PLAUSIBILITY,
    ),
    "boxes_unlike_masks": Rule(
        ERROR,
        "most boxes are not those of their masks",
        "look for boxes or masks of other images; --fix takes the boxes from the masks",
        PLAUSIBILITY,
    ),
    "areas_unlike_masks": Rule(
        ERROR,
        "most areas are far from those of the masks, or of the boxes without masks",
        "write the areas in pixels, from which small, medium and large follow; --fix does it",
        PLAUSIBILITY,
    ),
    "box_unlike_mask": Rule(
        WARNING,
        "a box that is not that of its mask",
        "training and evaluation use both as they are; --fix takes the box from the mask",
        PLAUSIBILITY,
    ),
    "area_unlike_mask": Rule(
        WARNING,
        "an area of less than half, or more than twice, that of the mask or box",
        "evaluation uses it as it is; --fix computes it",
        PLAUSIBILITY,
    ),
    "area_of_box": Rule(
        WARNING,
        "areas of boxes, while the annotations have masks",
        "evaluation uses them as they are, which moves masks to larger sizes",
        PLAUSIBILITY,
    ),
    "tiny_box": Rule(
        WARNING,
        "a box of less than one pixel",
        "it is used as it is; correct or remove the annotation",
        PLAUSIBILITY,
    ),
    "tiny_mask": Rule(
        WARNING,
        "a mask of less than one pixel",
        "it is used as it is; correct or remove the annotation",
        PLAUSIBILITY,
    ),
    "similar_names": Rule(
        WARNING,
        "two categories with nearly the same name",
        "they are two classes; merge them if they are one",
        PLAUSIBILITY,
    ),
    "name_with_spaces": Rule(
        WARNING,
        "a name that begins or ends with a space",
        "it is a name of its own; remove the spaces in all splits",
        PLAUSIBILITY,
    ),
    "numeric_name": Rule(
        INFORMATION,
        "a category named by a number",
        "write the name of the class, if this is its id",
        PLAUSIBILITY,
    ),
    "exif_orientation": Rule(
        INFORMATION,
        "an image that its EXIF turns when it is read",
        "see that the annotations are on the turned image, or store it turned",
        IMAGES,
    ),
    "huge_image": Rule(
        WARNING,
        "an image of so many pixels that reading it may fill the memory",
        "make the image and its annotations smaller, or cut it into tiles",
        IMAGES,
    ),
    "animated_image": Rule(
        WARNING,
        "a file with several frames",
        "only the first frame is read; store the frames as images",
        IMAGES,
    ),
    "file_outside_folder": Rule(
        WARNING,
        "a file name that leads out of the folder of the images",
        "it is read in training, but not shown in reports; name the folder that has all images",
        IMAGES,
    ),
    "duplicate_image": Rule(
        WARNING,
        "an image whose content another image has",
        "remove it from one split, or one of the two (looked for with --duplicates)",
        IMAGES,
    ),
}
"""All rules by name, in the order in which a check reports them."""
