"""Arguments that several commands share."""


def add_pictures(parser) -> None:
    """Declare the pictures that go in, and where what comes out is written."""
    parser.add_argument("inputs", nargs="+", metavar="IN", help="picture files and folders")
    parser.add_argument(
        "-o",
        "--output",
        required=True,
        metavar="OUT",
        help="a file for one picture, else a folder (made if missing)",
    )


def add_data_dir(parser) -> None:
    """Declare where tfds:NAME is looked for."""
    parser.add_argument(
        "--data-dir",
        default="",
        metavar="DIR",
        help="folder of built data sets (default: TFDS_DATA_DIR of the environment)",
    )
