"""P1, the conference version of P2: its corpus, which is P2's as well, and its claims."""

from capslib.papers import Paper, Role
from capslib.papers.p2 import CONTROLLED, GRU_SEQ, REC, SEQ, at, averages, grids, higher, worst_at_happy

CLAIMS = {
    "sequential and recurrent capsules beat CNN_GRU": at("section 4.2, Table 1", higher(CONTROLLED, ["CNN_GRU"])),
    "CNN_GRU-SeqCap beats all others (CNN_LSTM, which P1 quotes, rebuilt here)": at(
        "section 4.2, Table 1", higher([GRU_SEQ], ["CNN_LSTM [15]", "CNN_GRU", *CONTROLLED])
    ),
    "recurrent capsules beat sequential ones at WA and UA": at("section 4.2, Table 1", higher([REC], [SEQ])),
    "happy is the hardest class of CNN_SeqCap": at("section 4.2, Table 2", worst_at_happy([SEQ])),
    "recurrent connections raise the recall of happy": at(
        "section 4.2, Table 3", higher([REC], [SEQ], metrics=("recall of happy",))
    ),
}

OWNERS = "ask its owners at sail.usc.edu/iemocap; ravdess:emotion4 and emodb stand in"
IEMOCAP = Role("IEMOCAP", "four emotions (P2 as well)", OWNERS)
PAPER = Paper("P1", "Speech Emotion Recognition Using Capsule Networks", (IEMOCAP,), CLAIMS, grids, averages)
