"""P1, the conference version of P2: its corpus, which is P2's as well, and its claims."""

from capslib.claims import Claim
from capslib.papers import Paper, Role
from capslib.papers.p2 import CONTROLLED, GRU_SEQ, REC, SEQ, averages, grids, higher, worst_at_happy

CLAIMS = {
    "sequential and recurrent capsules beat CNN_GRU": Claim(
        "section 4.2, Table 1", "09", higher(CONTROLLED, ["CNN_GRU"])
    ),
    "CNN_GRU-SeqCap beats all others (CNN_LSTM, which P1 quotes, rebuilt here)": Claim(
        "section 4.2, Table 1", "09", higher([GRU_SEQ], ["CNN_LSTM [15]", "CNN_GRU", *CONTROLLED])
    ),
    "recurrent capsules beat sequential ones at WA and UA": Claim("section 4.2, Table 1", "09", higher([REC], [SEQ])),
    "happy is the hardest class of CNN_SeqCap": Claim("section 4.2, Table 2", "09", worst_at_happy([SEQ])),
    "recurrent connections raise the recall of happy": Claim(
        "section 4.2, Table 3", "09", higher([REC], [SEQ], metrics=("recall of happy",))
    ),
}

PAPER = Paper(
    "P1",
    "Speech Emotion Recognition Using Capsule Networks",
    corpora=(
        Role(
            "IEMOCAP",
            "four emotions (P2 as well)",
            "ask its owners at sail.usc.edu/iemocap; ravdess:emotion4 and emodb stand in",
        ),
    ),
    claims=CLAIMS,
    grids=grids,
    derived=averages,
)
