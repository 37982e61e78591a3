from bertcraft.cli import main

main()
