"""Opens shards with open_clip's own training and evaluation loaders, and prints what they gave as JSON.

Run by tests/end_to_end/test_loaders.py with the Python of .venv-openclip: SHARDS TEXTS, where SHARDS is what
`--train-data` takes and TEXTS a JSON list of the texts that may come.
"""

import json
import sys
from types import SimpleNamespace

from open_clip import get_tokenizer
from open_clip.transform import image_transform
from open_clip_train.data import get_data

BATCH = 4


def main(shards: str, texts: str) -> None:
    tokenizer = get_tokenizer("RN50")
    known = {tuple(tokenizer(text)[0].tolist()): text for text in json.loads(texts)}
    transforms = (image_transform(224, is_train=True), image_transform(224, is_train=False))
    data = get_data(arguments(shards), transforms, tokenizer=tokenizer)
    seen = {}
    for name in ("train", "val"):
        batches = list(data[name].dataloader)
        seen[name] = {
            "num_samples": data[name].dataloader.num_samples,
            "images": [list(images.shape) for images, _ in batches],
            "texts": [known[tuple(tokens)] for _, batch in batches for tokens in batch.tolist()],
        }
    print(json.dumps(seen))


def arguments(shards: str) -> SimpleNamespace:
    """What open_clip's command line gives for one process without data workers."""
    return SimpleNamespace(
        train_data=shards,
        val_data=shards,
        dataset_type="webdataset",
        train_num_samples=None,  # by sizes.json
        val_num_samples=None,
        train_data_upsampling_factors=None,
        dataset_resampled=False,
        imagenet_val=None,
        imagenet_v2=None,
        batch_size=BATCH,
        workers=0,
        world_size=1,
        seed=0,
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
