"""CPU time of encoding ESC-50's class names, against all 77 positions of every text, beside its bar.

python tests/benchmarks/bench_text.py [--device cuda] [--threads 1]
"""

import argparse

import torch
from open_clip import get_model_config
from open_clip.model import CLIP
from side_by_side import header, least_times, print_bar, print_steps, wait_asleep

from trainer.class_names import ESC50
from trainer.devices import choose_device
from trainer.models.clip import RN50, TextTower

OURS, WHOLE = "cut at the longest end-of-text, tokenised anew", "all 77 positions"


@torch.inference_mode()
def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    options.add_argument("--device", default="cpu", help="cpu or cuda")
    options.add_argument("--threads", type=int, default=0, help="of the CPU; 0: as many as PyTorch takes")
    chosen = options.parse_args()
    wait_asleep()
    torch.set_num_threads(chosen.threads or torch.get_num_threads())
    device = choose_device(chosen.device)
    print(header(device))
    clip = CLIP(**get_model_config(RN50)).eval().to(device)
    tower = TextTower(clip).eval()
    tokens = tower.tokens(ESC50).to(device)
    whole = clip.encode_text(tokens)
    steps = {
        WHOLE: lambda: clip.encode_text(tokens),
        OURS: lambda: tower(tower.tokens(ESC50).to(device)),
    }
    times = least_times(steps, 5, device=device)
    print_steps(f"{len(ESC50)} class texts", times)
    print_bar("cut / whole", times[OURS] / times[WHOLE], 0.12)
    print(f"  relative difference {float((tower(tokens) - whole).norm() / whole.norm()):.1e}")


if __name__ == "__main__":
    main()
