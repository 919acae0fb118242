"""P3: frequency-distributed convolutions with attention, for accents, speakers and emotions."""

from capslib.papers import Paper, Role

PAPER = Paper(
    "P3",
    "frequency-distributed convolutional networks with attention for accents, speakers and emotions",
    corpora=(
        Role("UT-Podcast", "three accents of English", "ask its owners at crss.utdallas.edu"),
        Role("CHAINS", "36 speakers", "from chains.ucd.ie; ased:speaker stands in"),
        Role("eNTERFACE", "six emotions", "from enterface.net"),
    ),
)
