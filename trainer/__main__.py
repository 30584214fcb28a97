"""What torchrun starts in each process: `torchrun --nproc_per_node=8 -m trainer train RECIPE …`."""

from trainer.command_line import main

if __name__ == "__main__":
    main()
