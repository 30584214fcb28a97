"""ImageNet's 1,000 class names and CLIP's 80 prompts for them, as open_clip publishes them."""

# open_clip takes seconds to import: whoever asks for names waits


def imagenet_names() -> tuple[str, ...]:
    """In the order of the sorted synset numbers, n01440764 first: that of class indices."""
    from open_clip.zero_shot_metadata import IMAGENET_CLASSNAMES

    return tuple(IMAGENET_CLASSNAMES)


def imagenet_prompts() -> tuple[str, ...]:
    """Each with `{}` for the name: "a bad photo of a {}."."""
    from open_clip.zero_shot_metadata import OPENAI_IMAGENET_TEMPLATES

    return tuple(prompt("{}") for prompt in OPENAI_IMAGENET_TEMPLATES)
