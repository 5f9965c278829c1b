"""``python -m dvae_lib.cli``: the command line where there is no command ``dvae``, as under torchrun."""

from dvae_lib.cli import main

if __name__ == "__main__":
    main()
