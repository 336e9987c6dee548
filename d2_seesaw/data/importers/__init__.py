"""Importers of annotation formats: each returns a dataset in COCO format.

Readers of our own, because no library keeps these annotations as they are. Tried in November 2026,
with files of the structure that the tools export:

=============== ==================================================================================
datumaro 1.13   does not find Ultralytics datasets or Labelme files; shifts boxes of VOC by a pixel,
                gives them the 22 classes of VOC and all the same id; keeps CVAT's masks as crowds
supervision     draws polygons of YOLO and traces them again (a triangle of 2,560 pixels has 2,665,
0.31            a box of 640 pixels 693); loses ``difficult``; has no Labelme; keeps CVAT's crowds
labelformat     reads boxes of VOC and YOLO, no negative images in segmentation, no Labelme
0.1
globox 2.9      has no masks; shifts boxes of VOC by a pixel; numbers classes and objects from 0
=============== ==================================================================================
"""

from d2_seesaw.data.importers.coco import import_coco
from d2_seesaw.data.importers.dataset import ImportedDataset, ImportOptions
from d2_seesaw.data.importers.labelme import import_labelme
from d2_seesaw.data.importers.voc import import_voc
from d2_seesaw.data.importers.yolo import import_yolo

__all__ = [
    "ImportOptions",
    "ImportedDataset",
    "import_coco",
    "import_labelme",
    "import_voc",
    "import_yolo",
]
