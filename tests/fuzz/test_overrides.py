"""Random overrides on the command line: a config, or one line that says what is wrong."""

from hypothesis import given
from hypothesis import strategies as st

from d2_seesaw.cli.train import argument_parser, read_config
from tests.fuzz.harness import outcome

KEYS = (
    *("train.max_iter", "train.seed", "train.device", "train.amp.enabled", "train.output_dir"),
    *("optimizer.lr", "model", "model.roi_heads", "model.roi_heads.num_classes", "dataloader"),
    *("model.backbone.bottom_up.stages.0", "dataloader.train.total_batch_size", "lr_multiplier"),
    *("dataloader.train.sampling.threshold", "model.anchor_generator.sizes", "tta.scales"),
    *("model.roi_heads.box_predictor.cls_loss", "train", "no.such.key", "", ".", "model..x"),
    *("~model", "+train.x", "++train.y", "hydra.run.dir", "model@x", "a b"),
)
VALUES = (
    *("", "1", "-1", "0", "1e400", "nan", "inf", "null", "abc", "true", "[", "{", "]", "[1,2", "'"),
    *("[1,2]", "{a:1}", "{_target_:os.system}", "${model}", "${no.such}", "${train.max_iter}", "é"),
    *(
        "\x00",
        "a=b",
        "1:2",
        "!!python/object:os.system",
        "*x",
        "&x",
        "0x10",
        "1_000",
        "-",
        "?",
        "%",
    ),
)
OVERRIDE = st.one_of(
    st.builds("{}={}".format, st.sampled_from(KEYS), st.sampled_from(VALUES)),
    st.builds("{}={}".format, st.sampled_from(KEYS), st.text(max_size=6)),
    st.text(min_size=1, max_size=8).filter(lambda text: not text.startswith("-")),
)


def read(config, overrides):
    arguments = ["--config-file", str(config), *overrides]
    return read_config(argument_parser().parse_args(arguments))


@given(overrides=st.lists(OVERRIDE, min_size=1, max_size=2))
def test_overrides_give_a_config_or_one_line(folder, overrides):
    outcome(read, folder / "config.py", overrides)
