"""ImageNet's 1,000 class names and CLIP's 80 prompts for them, as open_clip publishes them."""

from open_clip.zero_shot_metadata import IMAGENET_CLASSNAMES, OPENAI_IMAGENET_TEMPLATES


def imagenet_names() -> tuple[str, ...]:
    """In the order of the sorted synset numbers, n01440764 first: that of class indices."""
    return tuple(IMAGENET_CLASSNAMES)


def imagenet_prompts() -> tuple[str, ...]:
    """Each with `{}` for the name: "a bad photo of a {}."."""
    return tuple(prompt("{}") for prompt in OPENAI_IMAGENET_TEMPLATES)
