"""P4: instruments by convolutional, recurrent and pretrained networks, and an ensemble of them."""

from capslib.papers import Paper, Role

PAPER = Paper(
    "P4",
    "Deep Learning Approaches to Audio Classification",
    corpora=(Role("instruments", "four instruments", "its data set on kaggle.com; folder:instruments can stand in"),),
)
