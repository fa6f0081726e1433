"""Material for the tests of classifiers: a training of a second."""

from meddap_monai.classifier.config import ClassifyConfig

TINY = ClassifyConfig(
    encoder="resnet10_tiny",
    mode="scratch",
    resolution=32,
    steps=24,
    batch=8,
    validation_every=8,
    checkpoint_every=4,
    augmentation="classical",
    views=1,
    pictures=False,
)
