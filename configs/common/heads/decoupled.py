"""Decoupled training: a second phase in which only the classifiers are trained.

These parts update the config of the first phase, here of a detector:

    model.update(_decoupled_rcnn)
    dataloader.train.sampling = _class_balanced
    train.epochs = 12
    train.init_checkpoint = "output/first_phase/model_final.pth"

``model.init`` is ``"random"`` for new classifiers (cRT), ``"keep"`` for the trained ones, and
``"scale"`` for one factor on each logit (LWS). With ``"random"``, the second phase may have another
classifier and loss than the first.
"""

from detectron2.config import LazyCall as L

from d2_seesaw.modeling import DecoupledClassifier, DecoupledRCNN

decoupled_rcnn = L(DecoupledRCNN)(init="random", fresh_counts=True)
decoupled_classifier = L(DecoupledClassifier)(init="random", fresh_counts=True)
