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
        training_only: Whether the file can be evaluated in spite of the error.
    """

    severity: str
    description: str
    fix: str
    applies_to: str = ANNOTATIONS
    training_only: bool = False


RULES: Mapping[str, Rule] = {
    "text_encoding": Rule(
        WARNING,
        "a file that is not plain UTF-8: with a byte order mark, or UTF-16",
        "it is read; other tools refuse it, so save it as UTF-8 without a byte order mark",
    ),
    "missing_section": Rule(
        ERROR,
        "a file without a list of images, annotations or categories",
        "add the list; each of them is required",
    ),
    "missing_field": Rule(
        ERROR,
        "a required field that is missing or null",
        "add the field that the message names",
    ),
    "invalid_type": Rule(
        ERROR,
        "a value of another type, such as text or true where a number is meant",
        "write the value as the message says",
    ),
    "not_finite": Rule(
        ERROR, "a number that is not finite, such as NaN", "correct or remove the entry"
    ),
    "invalid_text": Rule(
        ERROR,
        "a name with a NUL or half of a surrogate pair, which cannot be written as UTF-8",
        "correct the name",
    ),
    "invalid_id": Rule(
        ERROR,
        "an id that is neither text nor an integer of 64 bits",
        "number the entries with integers; 3.0 is read as 3",
    ),
    "mixed_ids": Rule(
        ERROR, "a section with text and with numbers as ids", "write all ids in one form"
    ),
    "duplicate_id": Rule(ERROR, "an id that is used twice", "number the entries anew"),
    "duplicate_name": Rule(
        ERROR,
        "a name that two categories with annotations share",
        "merge the categories, or give one of them another name",
    ),
    "unused_duplicate_name": Rule(
        WARNING,
        "a category without annotations that has the name of another one",
        "its class is called 'name (id 0)', with its id; remove the category",
    ),
    "missing_name": Rule(
        WARNING, "a category without a name", "it is called by its id; add a name"
    ),
    "invalid_frequency": Rule(
        ERROR,
        "a frequency that is not r, c or f, or that some categories lack",
        "correct it, or remove the frequency of all categories: it follows from training images",
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
    "unknown_federated_category": Rule(
        WARNING,
        "a federated set with a category that the file does not list",
        "the id is ignored; list the category, or remove the id",
    ),
    "incomplete_federated_sets": Rule(
        WARNING,
        "an image that lacks a federated set, while other images have some",
        "the set is empty: no category is verified to be absent; add the set",
    ),
    "invalid_image_size": Rule(
        ERROR,
        "an image whose height and width are not positive whole numbers or exceed 2^31 pixels",
        "write the height and width of the image file",
    ),
    "missing_area": Rule(
        WARNING,
        "an annotation without an area: evaluation needs it",
        "it is computed from the mask, or else from the box; write the area",
    ),
    "zero_area": Rule(
        WARNING,
        "an annotation with the area 0",
        "evaluation does not count it, as lvis-api; write the area of the mask, or of the box",
    ),
    "invalid_area": Rule(
        ERROR,
        "an area that is negative, or larger than the 10^10 pixels that evaluation counts",
        "write the area of the mask, or of the box",
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
    "zero_area_box": Rule(
        WARNING,
        "a box without width or height",
        "training leaves it out, evaluation counts it as lvis-api does; correct or remove the box",
    ),
    "negative_box": Rule(
        ERROR, "a box with a negative width or height", "write boxes as x, y, width and height"
    ),
    "far_outside_image": Rule(
        ERROR,
        "a box or polygon that exceeds the image by more than ten times its longer side",
        "correct or remove the entry: it cannot be drawn",
    ),
    "box_outside_image": Rule(
        ERROR, "a box entirely outside of the image", "correct or remove the box"
    ),
    "box_beyond_image": Rule(
        WARNING,
        "a box that reaches more than a pixel beyond the image",
        "training clips it to the image, evaluation takes it as it is; clip it in the file",
    ),
    "invalid_segmentation": Rule(
        ERROR,
        "a segmentation that is neither a list of polygons nor a run-length encoding",
        "write each polygon as a list of numbers in a list: [[x, y, x, y, x, y]]",
    ),
    "odd_polygon": Rule(
        ERROR, "a polygon of an odd number of coordinates", "correct or remove the polygon"
    ),
    "invalid_polygon": Rule(
        WARNING,
        "a polygon of fewer than three points",
        "the polygon is left out; an annotation without another one counts as without a mask",
    ),
    "zero_area_polygon": Rule(
        WARNING,
        "a polygon whose points are on a horizontal or vertical line",
        "it is drawn as pycocotools does, mostly without a pixel; remove the polygon",
    ),
    "polygon_beyond_image": Rule(
        WARNING,
        "a polygon that reaches more than a pixel beyond the image",
        "the mask is clipped to the image; clip the polygon in the file",
    ),
    "excessive_polygon": Rule(
        ERROR,
        "a polygon with an outline of more than a million pixels, which cannot be drawn",
        "encode the mask, or remove the polygon",
    ),
    "empty_segmentation": Rule(
        WARNING,
        "no segmentation, while other annotations have one",
        "training and evaluation of masks leave the annotation out; add the mask",
    ),
    "empty_mask": Rule(
        WARNING,
        "a run-length encoding that covers no pixel",
        "training leaves it out, evaluation counts it as lvis-api does; encode the mask again",
    ),
    "invalid_rle": Rule(
        ERROR,
        "a run-length encoding that cannot be read or has another size than the image",
        "encode the mask again, with the height and width of the image",
    ),
    "nothing_to_train_on": Rule(
        ERROR,
        "a file without any object to train on, such as one with crowds alone",
        "annotate objects with iscrowd 0; the file can be evaluated",
        training_only=True,
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
