"""DeepSpeed's configuration for a recipe. The course itself trains with FSDP2; MPT's authors used DeepSpeed."""

from typing import Any

from course_lib.recipe import Recipe

NAMES = {"adamw": "AdamW", "adam": "Adam", "sgd": "SGD"}


def deepspeed_config(recipe: Recipe, world: int = 1, stage: int = 2) -> dict[str, Any]:
    """What `deepspeed.initialize(config=...)` takes, ready for JSON; `stage` of ZeRO: 0 to 3.

    What is code in a recipe goes in as code: `model_parameters=parameter_groups(model, recipe.optimizer)` and
    `lr_scheduler=lambda optimizer: LambdaLR(optimizer, [partial(group["schedule"] or recipe.schedule,
    steps=recipe.steps) for group in optimizer.param_groups])`.
    ValueError for a batch that `world` processes can't share, and for a stage that there is not."""
    if stage not in range(4):
        raise ValueError(f"ZeRO has no stage {stage}: use 0, 1, 2 or 3")
    optimizer = recipe.optimizer
    adam = {"betas": list(optimizer.betas), "eps": optimizer.eps, "torch_adam": True}
    own = {"momentum": optimizer.momentum} if optimizer.name == "sgd" else adam
    config = {
        "train_batch_size": recipe.batch_size,
        "train_micro_batch_size_per_gpu": recipe.share(world),
        "gradient_accumulation_steps": recipe.accumulate,
        "optimizer": {
            "type": NAMES[optimizer.name],
            "params": {"lr": optimizer.lr, "weight_decay": optimizer.weight_decay, **own},
        },
        "zero_optimization": {"stage": stage},
        "bf16": {"enabled": recipe.precision == "bf16"},
    }
    return config | ({"gradient_clipping": recipe.clip} if recipe.clip is not None else {})
